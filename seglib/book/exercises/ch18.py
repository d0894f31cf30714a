"""The pieces and exercises of chapter 18, "nnU-Net".

The first six are the pieces that the reader writes in "From scratch"; the others stand in "Exercises".
"""

from seglib.book.exercise import Exercise
from seglib.book.exercises import ch18_memory as memory
from seglib.book.exercises import ch18_network as network
from seglib.book.exercises import ch18_rules as rules
from seglib.book.exercises import ch18_spacing as spacing

EXERCISES: dict[str, Exercise] = {
    "ch18.target_spacing": spacing.TARGET_SPACING,
    "ch18.initial_patch": network.INITIAL_PATCH,
    "ch18.topology": network.TOPOLOGY,
    "ch18.feature_maps": network.FEATURE_MAPS,
    "ch18.shrink": memory.SHRINK,
    "ch18.batch_size": memory.BATCH_SIZE,
    "ch18.predict": rules.PREDICT,
    "ch18.lowres": spacing.LOWRES,
    "ch18.supervision": network.SUPERVISION,
    "ch18.resample": spacing.RESAMPLE,
    "ch18.choose": rules.CHOOSE,
    "ch18.plan": memory.PLAN,
}
