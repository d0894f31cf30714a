"""Chapter 16, "Mask2Former": the piece and the exercises on the three answers that are read from the queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.exercise import Exercise, expect

# Piece 6: the panoptic answer ----------------------------------------------------------------------------------------

Answer = tuple[Tensor, list[int]]


def panoptic(classes: Tensor, masks: Tensor, T: int, least: float, overlap: float) -> Answer:  # noqa: N803
    """Class probabilities ``(Q, K + 1)`` and mask probabilities ``(Q, H, W)`` → a map of ids and their categories."""
    return _panoptic(classes, masks, T, least, overlap)


def _best_class(classes: Tensor) -> tuple[Tensor, Tensor]:
    return classes.max(1)


def _panoptic(
    classes: Tensor,
    masks: Tensor,
    T: int,  # noqa: N803
    least: float,
    overlap: float,
    *,
    best: Callable[[Tensor], tuple[Tensor, Tensor]] = _best_class,
    sure: Callable[[Tensor, float], Tensor] = lambda scores, least: scores > least,
    value: Callable[[Tensor, Tensor], Tensor] = lambda scores, masks: scores * masks,
    inside: Callable[[Tensor], Tensor] = lambda masks: masks >= 0.5,
    share: Callable[[Tensor, Tensor], float] = lambda won, mask: int(won.sum()) / max(1, int(mask.sum())),
    dropped: Callable[[float, float], bool] = lambda share, overlap: share < overlap,
    written: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda won, mask, values: won & mask,
    merged: Callable[[int, int], bool] = lambda label, T: label >= T,
    first: Callable[[Tensor], Tensor] = lambda values: values.argmax(0),
    area: Callable[[Tensor], Tensor] | None = None,
    nothing: Callable[[Tensor, Tensor], bool] = lambda out, mask: not out.any(),
    no_object: bool = True,
    all_compete: bool = False,
    gaps: bool = False,
    stuff_kept: bool = False,
    stuff_together: bool = False,
    early: bool = False,
    again: str = "joins",
) -> Answer:
    """``panoptic`` with some of its rules exchanged."""
    scores, labels = best(classes)  # (Q,)
    kept = sure(scores, least)
    if no_object:
        kept = kept & (labels < classes.shape[1] - 1)
    ids, categories, of_class = torch.zeros(masks.shape[1:], dtype=torch.int64), list[int](), dict[int, int]()
    if not all_compete:
        scores, labels, masks, kept = scores[kept], labels[kept], masks[kept], kept[kept]
    if not len(masks):
        return ids, categories
    values = value(scores[:, None, None], masks)  # (Q, H, W)
    winner = first(values)  # (H, W)
    for n, label in enumerate(labels.tolist()):
        own = labels == label if stuff_together and label >= T else torch.arange(len(labels)) == n
        won, mask, counted = winner == n, inside(masks[n]), (area or inside)(masks[own]).any(0)
        out = written(won, mask, values[n])
        if early and label >= T and label not in of_class:
            categories.append(label)
            of_class[label] = len(categories)
        low = dropped(share(own[winner], counted), overlap) and not (stuff_kept and label >= T)
        if not kept[n] or nothing(out, mask) or low:
            continue
        if merged(label, T) and label in of_class:
            categories += [label] if again == "counts" else []
            ids[out] = of_class[label] if again != "is left out" else 0
            continue
        categories.append(label)
        of_class[label] = n + 1 if gaps else len(categories)
        ids[out] = of_class[label]
    return ids, categories


def _answers(**changes: Any) -> Callable[[Tensor, Tensor, int, float, float], Answer]:
    return lambda classes, masks, T, least, overlap: _panoptic(classes, masks, T, least, overlap, **changes)


def _best_real_class(classes: Tensor) -> tuple[Tensor, Tensor]:
    return classes[:, :-1].max(1)


def _after_the_drop(
    classes: Tensor,
    masks: Tensor,
    T: int,  # noqa: N803
    least: float,
    overlap: float,
) -> Answer:
    """The pixels of a dropped query go to the others: asks again until nothing is dropped."""
    scores, labels = classes.max(1)
    kept = (scores > least) & (labels < classes.shape[1] - 1)
    while kept.any():
        some = kept.nonzero()[:, 0]
        winner = (scores[some, None, None] * masks[some]).argmax(0)
        won = torch.stack([winner == n for n in range(len(some))]).flatten(1).sum(1)
        area = (masks[some] >= 0.5).flatten(1).sum(1)
        low = won / area.clamp(min=1) < overlap
        if not low.any():
            break
        kept[some[low]] = False
    return _panoptic(classes[kept], masks[kept], T, least, 0.0)


def _ids_of_queries(classes: Tensor, masks: Tensor, T: int, least: float, overlap: float) -> Answer:  # noqa: N803
    """Numbers the segments by the queries' places among all queries."""
    ids, categories = _panoptic(classes, masks, T, least, overlap, gaps=True)
    scores, labels = classes.max(1)
    number = ((scores > least) & (labels < classes.shape[1] - 1)).nonzero()[:, 0] + 1
    return torch.cat([torch.zeros(1, dtype=torch.int64), number])[ids], categories


def _no_care_of_none(classes: Tensor, masks: Tensor, T: int, least: float, overlap: float) -> Answer:  # noqa: N803
    """Takes the argmax of no query."""
    scores, labels = classes.max(1)
    masks[(scores > least) & (labels < classes.shape[1] - 1)].argmax(0)
    return panoptic(classes, masks, T, least, overlap)


def _from_zero(classes: Tensor, masks: Tensor, T: int, least: float, overlap: float) -> Answer:  # noqa: N803
    ids, categories = panoptic(classes, masks, T, least, overlap)
    return (ids - 1).clamp(min=0), categories


def _one_mask_at_a_time(
    classes: Tensor,
    masks: Tensor,
    T: int,  # noqa: N803
    least: float,
    overlap: float,
) -> Answer:
    """Pastes by falling score, as Panoptic FPN does."""
    scores, labels = classes.max(1)
    ids, categories = torch.zeros(masks.shape[1:], dtype=torch.int64), list[int]()
    for n in scores.argsort(descending=True, stable=True).tolist():
        mask = masks[n] >= 0.5
        free = mask & (ids == 0)
        sure = scores[n] > least and labels[n] < classes.shape[1] - 1
        if sure and free.any() and free.sum() / mask.sum() >= overlap:
            categories.append(int(labels[n]))
            ids[free] = len(categories)
    return ids, categories


def _by_score(
    classes: Tensor,
    masks: Tensor,
    T: int,  # noqa: N803
    least: float,
    overlap: float,
) -> Answer:
    order = classes.max(1).values.argsort(descending=True, stable=True)
    return panoptic(classes[order], masks[order], T, least, overlap)


def _panoptic_numpy(
    classes: Tensor,
    masks: Tensor,
    T: int,  # noqa: N803
    least: float,
    overlap: float,
) -> tuple[np.ndarray, list[int]]:
    c, m = classes.numpy(), masks.numpy()
    score, label = c.max(1), c.argmax(1)
    use = np.flatnonzero((label != c.shape[1] - 1) & (score > least))
    ids = np.zeros(m.shape[1:], dtype=int)
    found: list[int] = []
    if len(use):
        winner = use[np.argmax(score[use, None, None] * m[use], axis=0)]
        for q in use:
            mask = m[q] >= 0.5
            both = np.logical_and(winner == q, mask)
            if both.sum() == 0 or (winner == q).sum() < overlap * mask.sum():
                continue
            k = int(label[q])
            if k < T or k not in found:
                found.append(k)
                ids[both] = len(found)
            else:
                ids[both] = found.index(k) + 1
    return ids, found


def _panoptic_in_place(
    classes: Tensor,
    masks: Tensor,
    T: int,  # noqa: N803
    least: float,
    overlap: float,
) -> list[Any]:
    """All queries compete, those that are out with the value −1; ids as lists."""
    scores, labels = classes.max(1)
    out = (scores <= least) | (labels == classes.shape[1] - 1)
    inside = masks >= 0.5
    masks *= scores[:, None, None]
    masks[out] = -1.0
    ids = torch.zeros(masks.shape[1:], dtype=torch.int64)
    found: list[int] = []
    winner = masks.max(0).indices if len(masks) else ids
    for q in (~out).nonzero().flatten().tolist():
        won = winner == q
        if (won & inside[q]).any() and won.sum() >= overlap * inside[q].sum():
            k = int(labels[q])
            number = found.index(k) + 1 if k >= T and k in found else len(found) + 1
            found += [k] if number > len(found) else []
            ids += number * (won & inside[q])
    return [ids.tolist(), found]


def _spread(rows: list[list[float]]) -> Tensor:
    """Masks on a line of pixels, ``(Q, 1, W)``."""
    return torch.tensor(rows)[:, None]


def _queries() -> Mapping[str, tuple[Tensor, Tensor, int, float, float]]:
    """T = 2 things, 2 stuff classes, and "no object" in column 4."""
    draw = torch.Generator().manual_seed(22)
    # probabilities are multiples of 1/64, so that ties and thresholds are exact
    person, other = [60, 1, 1, 1, 1], [1, 58, 2, 2, 1]
    sky, grass = [1, 1, 60, 1, 1], [0, 0, 2, 56, 6]
    nothing, unsure = [1, 1, 1, 1, 60], [40, 12, 4, 4, 4]

    def case(rows: list[list[int]], masks: list[list[float]], least: float = 0.75, overlap: float = 0.5) -> Any:
        return torch.tensor(rows) / 64, _spread(masks), 2, least, overlap

    drawn = torch.rand(7, 6, 8, generator=draw)
    random_classes = torch.tensor([person, sky, other, grass, sky, nothing, person]) / 64
    return {
        "a person in front of the sky": case(
            [person, sky], [[0.1, 0.9, 0.9, 0.1, 0.1, 0.1], [0.9, 0.2, 0.1, 0.8, 0.9, 0.9]]
        ),
        "pixels without a sure mask": case([person, grass], [[0.9, 0.9, 0.4, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4, 0.9]]),
        "a query that says no object": case(
            [nothing, person, sky], [[1.0, 1, 1, 1], [0.9, 0.9, 0.1, 0.1], [0.1, 0.1, 0.8, 0.8]]
        ),
        "a low threshold, and a query that is mostly no object": case(
            [[24, 1, 1, 1, 37], sky], [[1.0, 1, 0.2], [0.3, 0.25, 0.9]], least=0.25
        ),
        "a query that is not sure": case([unsure, sky], [[1.0, 1, 0.2, 0.1], [0.6, 0.6, 0.9, 0.9]]),
        "a query that is just not sure enough": case(
            [[48, 4, 4, 4, 4], sky], [[1.0, 1, 0.2, 0.1], [0.6, 0.6, 0.9, 0.9]]
        ),
        "two masks of one object": case(
            [person, other, sky],
            [[0.9, 0.9, 0.9, 0.9, 0.1, 0.1], [0.8, 0.8, 0.8, 0.7, 0.6, 0.1], [0.1, 0.1, 0.1, 0.1, 0.3, 0.9]],
        ),
        "a mask of which exactly half is won": case(
            [person, other], [[0.9, 0.9, 0.1, 0.1], [0.8, 0.8, 0.75, 0.75]], overlap=0.5
        ),
        "a query that wins pixels outside its mask": case(
            [person, other],
            [[0.9, 0.9, 0.9, 0.1, 0.1, 0.0, 0.1, 0.1], [0.8, 0.8, 0.8, 0.6, 0.4, 0.4, 0.3, 0.3]],
            overlap=0.75,
        ),
        "a small mask in front of nothing": case([person], [[0.9, 0.52, 0.4, 0.3, 0.2]]),
        "a lower class probability and a higher mask": case(
            [person, grass], [[0.6, 0.6, 0.6, 0.1], [0.3, 0.65, 0.8, 0.9]], overlap=0.25
        ),
        "a mask probability of exactly ½": case([person, sky], [[0.5, 0.5, 0.25, 0.25], [0.25, 0.25, 0.5, 0.75]]),
        "stuff in two parts": case(
            [sky, person, sky], [[0.9, 0.1, 0.1, 0.1], [0.1, 0.9, 0.1, 0.1], [0.1, 0.1, 0.9, 0.9]]
        ),
        "grass in two parts": case([grass, person, grass], [[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]]),
        "two people": case([person, sky, person], [[0.9, 0.1, 0.1, 0.1], [0.1, 0.9, 0.1, 0.1], [0.1, 0.1, 0.9, 0.9]]),
        "equal values": case([person, person], [[0.75, 0.75, 0.5, 0.25], [0.25, 0.75, 0.5, 0.75]], overlap=0.25),
        "two of the second thing": case(
            [other, sky, other], [[0.9, 0.1, 0.1, 0.1], [0.1, 0.9, 0.1, 0.1], [0.1, 0.1, 0.9, 0.9]]
        ),
        "a low threshold": case(
            [unsure, sky, [28, 20, 8, 4, 4]], [[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]], least=0.5
        ),
        "a pixel that goes to a mask below ½": case([person, grass], [[0.9, 0.49, 0.1], [0.1, 0.51, 0.9]]),
        "a query that wins only outside its mask": case([person, other], [[0.5, 0.4, 0.4], [0.9, 0.1, 0.1]]),
        "a mask with pixels of exactly ½": case(
            [person, other], [[0.9, 0.9, 0.1, 0.1], [0.5, 0.5, 0.8, 0.8]], overlap=0.75
        ),
        "a second part of the sky that is dropped": case(
            [sky, sky], [[0.9, 0.9, 0.9, 0.9, 0.2, 0.1], [0.8, 0.8, 0.8, 0.1, 0.1, 0.9]]
        ),
        "a sky that is dropped": case([sky, person], [[0.6, 0.6, 0.6, 0.9], [0.9, 0.9, 0.9, 0.1]]),
        "a first part of the sky that is dropped": case(
            [sky, person, sky],
            [[0.8, 0.8, 0.8, 0.1, 0.1, 0.9], [0.1, 0.1, 0.1, 0.1, 0.9, 0.1], [0.9, 0.9, 0.9, 0.9, 0.2, 0.1]],
        ),
        "a mask that is empty": case([other, person, sky], [[0.0] * 3, [0.25, 0.75, 0.25], [0.75, 0.25, 0.75]]),
        "a winner that is outside its mask everywhere": case(
            [person, sky], [[0.4, 0.4, 0.45], [0.1, 0.2, 0.1]], overlap=0.0
        ),
        "scores out of order": case([grass, person, other], [[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]]),
        "seven masks of noise": (random_classes, drawn, 2, 0.5, 0.25),
        "no query that is sure": case([nothing, unsure], [[0.9, 0.9], [0.9, 0.9]]),
        "no query": (torch.zeros(0, 5), torch.zeros(0, 2, 3), 2, 0.5, 0.5),
    }


PANOPTIC = Exercise(
    solution=panoptic,
    wrong={
        "no_object_kept": (
            _answers(no_object=False),
            'A query whose best class is "no object" (the last column) takes no part.',
        ),
        "no_object_left_out_first": (
            _answers(best=_best_real_class, no_object=False),
            'You leave out the last column before you take the best class. Then no query can say "no object".',
        ),
        "equal_score_in": (
            _answers(sure=lambda scores, least: scores >= least),
            "The best class must be *above* `least`: an equal probability is not enough.",
        ),
        "all_scores": (
            _answers(sure=lambda scores, least: scores >= 0),
            "You keep queries of all scores. The best class must have a probability above `least`.",
        ),
        "least_always": (
            lambda classes, masks, T, least, overlap: panoptic(classes, masks, T, 0.8, overlap),
            "Your threshold of the score is always 0.8. Use `least`.",
        ),
        "all_compete": (
            _answers(all_compete=True),
            "Queries that are out still win pixels in your answer. Leave them out before the argmax.",
        ),
        "mask_alone": (
            _answers(value=lambda scores, masks: masks),
            "You compare the masks alone. A pixel goes to the highest product of score and mask.",
        ),
        "score_alone": (
            _answers(value=lambda scores, masks: scores * (masks >= 0.5)),
            "You compare the scores of the masks that cover a pixel. Compare the products of score and mask.",
        ),
        "masks_at_a_pixel_alone": (
            _answers(value=lambda scores, masks: scores * masks * (masks >= 0.5)),
            "Only masks that hold a pixel compete for it in your answer. All compete, also with a probability below ½.",
        ),
        "last_of_equals": (
            _answers(first=lambda values: len(values) - 1 - values.flip(0).argmax(0)),
            "Of equal products the last query gets the pixel in your answer. The first one gets it.",
        ),
        "none_takes_part": (
            _no_care_of_none,
            "Where no query takes part, there is no argmax. The map is 0, and the list is empty.",
        ),
        "pasted_by_score": (
            _one_mask_at_a_time,
            "You paste masks by falling score, as Panoptic FPN does. Here one argmax gives every pixel to a query.",
        ),
        "all_that_is_won": (
            _answers(written=lambda won, mask, values: won),
            "You write all pixels that a query wins. They must also lie in its mask (probability ≥ ½).",
        ),
        "mask_written": (
            _answers(written=lambda won, mask, values: mask),
            "You write the whole mask. Only pixels that the query wins are written.",
        ),
        "half_outside": (
            _answers(inside=lambda masks: masks > 0.5),
            "A mask probability of exactly ½ is inside.",
        ),
        "half_outside_the_area": (
            _answers(area=lambda masks: masks > 0.5),
            "The area of a mask holds pixels of exactly ½, too.",
        ),
        "product_written": (
            _answers(written=lambda won, mask, values: won & (values >= 0.5)),
            "You compare the product with ½ when you write. Compare the mask probability alone.",
        ),
        "never_dropped": (
            _answers(dropped=lambda share, overlap: False),
            "You keep what is left of every mask. One that wins too little of its area is dropped.",
        ),
        "equal_share_dropped": (
            _answers(dropped=lambda share, overlap: share <= overlap),
            "You drop a query whose share equals `overlap`. It must be below.",
        ),
        "share_of_written": (
            _answers(share=lambda won, mask: int((won & mask).sum()) / max(1, int(mask.sum()))),
            "You count the won pixels inside the mask. The rule counts all that the query wins, over its mask's area.",
        ),
        "iou": (
            _answers(share=lambda won, mask: int((won & mask).sum()) / max(1, int((won | mask).sum()))),
            "You compare an IoU. It is the number of won pixels over the area of the mask.",
        ),
        "share_upside_down": (
            _answers(share=lambda won, mask: int(mask.sum()) / max(1, int(won.sum()))),
            "Your fraction is upside down: won pixels over the area of the mask.",
        ),
        "half_always": (
            lambda classes, masks, T, least, overlap: panoptic(classes, masks, T, least, 0.5),
            "Your overlap threshold is always ½. Use `overlap`.",
        ),
        "stuff_never_dropped": (
            _answers(stuff_kept=True),
            "You drop things alone. A query of stuff that wins too little of its mask is dropped as well.",
        ),
        "stuff_merged_before": (
            _answers(stuff_together=True),
            "You merge stuff before rule 3. Each query is judged alone, and those that stay are merged.",
        ),
        "dropped_pixels_given_away": (
            _after_the_drop,
            "You give the pixels of a dropped query to the others. They stay void.",
        ),
        "stuff_apart": (
            _answers(merged=lambda label, T: False),
            "Queries of one stuff class are one segment: they share the id of the first.",
        ),
        "first_part_alone": (
            _answers(again="is left out"),
            "The second query of a stuff class is missing in your map. It gets the id of the first.",
        ),
        "category_twice": (
            _answers(again="counts"),
            "Your list names a stuff class twice. There is one category for each segment.",
        ),
        "id_before_the_drop": (
            _answers(early=True),
            "A stuff class gets its segment before its query is dropped in your answer. Drop first.",
        ),
        "things_merged": (
            _answers(merged=lambda label, T: True),
            "You merge things of one class. Every thing keeps its own id; only stuff is merged.",
        ),
        "things_merged_alone": (
            _answers(merged=lambda label, T: label < T),
            "You merge things and leave stuff apart. Categories below T are things.",
        ),
        "one_more_thing": (
            lambda classes, masks, T, least, overlap: panoptic(classes, masks, T + 1, least, overlap),
            "Category T is stuff: things are those *below* T.",
        ),
        "one_thing_less": (
            lambda classes, masks, T, least, overlap: panoptic(classes, masks, T - 1, least, overlap),
            "Category T − 1 is a thing: things are all those below T.",
        ),
        "empty_segments": (
            _answers(nothing=lambda out, mask: False),
            "A query without a pixel makes a segment in your answer. It makes none, and takes no id.",
        ),
        "empty_by_its_mask": (
            _answers(nothing=lambda out, mask: not mask.any()),
            "A query may win only pixels outside its mask. Then nothing is left of it, and it makes no segment.",
        ),
        "ids_of_queries": (
            _ids_of_queries,
            "Your ids are the places of the queries. Segments count from 1 without gaps.",
        ),
        "from_zero": (_from_zero, "Your first segment has the id 0, which is void. Count from 1."),
        "gaps": (
            _answers(gaps=True),
            "Your ids have gaps. Segments count from 1 without gaps, in the order of the queries.",
        ),
        "by_score": (
            _by_score,
            "You number the segments by falling score. They come in the order of the queries.",
        ),
    },
    right={"NumPy": _panoptic_numpy, "in place, as lists": _panoptic_in_place},
    probes=_queries,
    hint="Keep sure queries, argmax of score × mask, drop by won pixels / mask area, write won ∩ mask, merge stuff.",
    sketch="""
        scores, labels = classes.max(1)
        keep = (scores > ...) & (labels < ...)
        scores, labels, masks = scores[keep], labels[keep], masks[keep]
        winner = (... * masks).argmax(0)          # (H, W); not of an empty set
        for n, k in enumerate(labels.tolist()):
            won, mask = winner == n, masks[n] >= ...
            if not (won & mask).any() or won.sum() ... overlap * mask.sum():
                continue
            # stuff that is there already: its id; else a new one
            ids[won & mask] = ...
    """,
)


# The semantic answer -------------------------------------------------------------------------------------------------


def semantic(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Logits ``(Q, K + 1)`` and ``(Q, H, W)`` → the class of every pixel, ``(H, W)``."""
    return _semantic(class_logits, mask_logits)


def _semantic(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    classes: Callable[[Tensor], Tensor] = lambda z: z.softmax(1)[:, :-1],
    masks: Callable[[Tensor], Tensor] = torch.sigmoid,
    join: Callable[[Tensor, Tensor], Tensor] = lambda c, m: torch.einsum("qk,qhw->khw", c, m),
) -> Tensor:
    """``semantic`` with other probabilities or another sum."""
    return join(classes(class_logits), masks(mask_logits)).argmax(0)


def _semantics(**changes: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda class_logits, mask_logits: _semantic(class_logits, mask_logits, **changes)


def _hard(z: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(z.argmax(1), z.shape[1])[:, :-1].float()


def _semantic_numpy(class_logits: Tensor, mask_logits: Tensor) -> np.ndarray:
    z = class_logits.numpy().astype(float)
    c = np.exp(z - z.max(1, keepdims=True))
    c /= c.sum(1, keepdims=True)
    m = 1 / (1 + np.exp(-mask_logits.numpy().astype(float)))
    return np.argmax(np.tensordot(c[:, :-1], m, axes=(0, 0)), axis=0)


def _semantic_query_by_query(class_logits: Tensor, mask_logits: Tensor) -> list[list[int]]:
    total = torch.zeros(class_logits.shape[1] - 1, *mask_logits.shape[1:])
    for c, m in zip(class_logits.softmax(1), mask_logits.sigmoid_(), strict=True):
        total += c[:-1, None, None] * m
    return total.argmax(0).tolist()


def _logit(p: list[list[float]] | Tensor) -> Tensor:
    p = torch.as_tensor(p)
    return (p / (1 - p)).log()


def _semantic_cases() -> Mapping[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(25)

    def case(classes: list[list[float]], masks: list[list[float]]) -> tuple[Tensor, Tensor]:
        return torch.tensor(classes).log(), _logit(masks)[:, None]

    return {
        "two queries": case([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], [[0.9, 0.6, 0.2], [0.1, 0.3, 0.9]]),
        "a query that says no object": case([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]], [[0.9, 0.9, 0.9], [0.3, 0.1, 0.9]]),
        "two queries against one": case(
            [[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], [[0.7, 0.6, 0.6], [0.7, 0.6, 0.1], [0.5, 0.9, 0.4]]
        ),
        "unsure queries": case(
            [[0.3, 0.2, 0.5], [0.2, 0.45, 0.35], [0.25, 0.2, 0.55]], [[0.9, 0.8, 0.7], [0.6, 0.4, 0.9], [0.9, 0.2, 0.3]]
        ),
        "six queries of noise": (
            3 * torch.randn(6, 5, generator=draw),
            3 * torch.randn(6, 5, 7, generator=draw),
        ),
        "one query": (torch.randn(1, 4, generator=draw), torch.randn(1, 2, 3, generator=draw)),
    }


SEMANTIC = Exercise(
    solution=semantic,
    wrong={
        "no_object_as_a_class": (
            _semantics(classes=lambda z: z.softmax(1)),
            '"No object", the last column, is no class of a pixel: leave it out of the argmax.',
        ),
        "void": (
            lambda class_logits, mask_logits: torch.where(
                (votes := torch.einsum("qk,qhw->khw", class_logits.softmax(1), mask_logits.sigmoid())).argmax(0)
                == len(votes) - 1,
                255,
                votes.argmax(0),
            ),
            'You leave pixels void where "no object" wins. Every pixel gets a class.',
        ),
        "first_column": (
            _semantics(classes=lambda z: z.softmax(1)[:, 1:]),
            'You leave out the first column. "No object" is the last one.',
        ),
        "sure_queries_alone": (
            _semantics(classes=lambda z: z.softmax(1)[:, :-1] * (z.argmax(1) < z.shape[1] - 1)[:, None]),
            'Queries that say "no object" have no vote in your answer. They vote, with small probabilities.',
        ),
        "softmax_of_the_rest": (
            _semantics(classes=lambda z: z[:, :-1].softmax(1)),
            'You leave out "no object" before the softmax. A query that is mostly no object would count fully.',
        ),
        "class_logits": (
            _semantics(classes=lambda z: z[:, :-1]),
            "You use the class logits. Take their softmax.",
        ),
        "class_sigmoid": (
            _semantics(classes=lambda z: z.sigmoid()[:, :-1]),
            "You take the sigmoid of the class logits. The classes of a query exclude each other: softmax.",
        ),
        "softmax_over_queries": (
            _semantics(classes=lambda z: z.softmax(0)[:, :-1]),
            "Your softmax goes over the queries. It goes over the classes of each query.",
        ),
        "mask_softmax": (
            _semantics(masks=lambda z: z.softmax(0)),
            "You take a softmax of the masks over the queries. Each mask is a sigmoid of its own.",
        ),
        "mask_logits": (_semantics(masks=lambda z: z), "You use the mask logits. Take their sigmoid."),
        "hard_masks": (
            _semantics(masks=lambda z: (z > 0).float()),
            "You cut the masks at ½. Their probabilities are summed as they are.",
        ),
        "hard_classes": (
            _semantics(classes=_hard),
            "Each query votes for its best class alone in your answer. It votes for all, with their probabilities.",
        ),
        "largest": (
            _semantics(join=lambda c, m: (c[:, :, None, None] * m[:, None]).amax(0)),
            "You take the largest query of each class. The votes of all queries are summed.",
        ),
        "best_query": (
            _semantics(join=lambda c, m: c.mT[:, m.argmax(0)]),
            "You ask the query with the best mask alone. The votes of all queries are summed.",
        ),
        "scores": (
            lambda class_logits, mask_logits: torch.einsum(
                "qk,qhw->khw", class_logits.softmax(1)[:, :-1], mask_logits.sigmoid()
            ),
            "Those are the sums. The class with the largest one is wanted, (H, W).",
        ),
    },
    right={"NumPy": _semantic_numpy, "query by query, as lists": _semantic_query_by_query},
    probes=_semantic_cases,
    hint="Sum over queries of (softmax without the last column) × sigmoid of the mask, then the argmax over classes.",
    sketch="""
        classes = class_logits.softmax(...)[:, ...]          # (Q, K)
        masks = mask_logits...                               # (Q, H, W)
        return torch.einsum("qk,qhw->khw", ..., ...).argmax(...)
    """,
)


# The instance answer -------------------------------------------------------------------------------------------------

Objects = tuple[Tensor, Tensor, Tensor]


def instances(class_logits: Tensor, mask_logits: Tensor, T: int, most: int) -> Objects:  # noqa: N803
    """The best pairs of query and thing class, by falling score: labels ``(N,)``, scores ``(N,)``, masks bool."""
    return _instances(class_logits, mask_logits, T, most)


def _mean_inside(masks: Tensor) -> Tensor:
    inside = masks > 0.5
    return (masks * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)


def _instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    T: int,  # noqa: N803
    most: int,
    *,
    classes: Callable[[Tensor], Tensor] = lambda z: z.softmax(1)[:, :-1],
    quality: Callable[[Tensor], Tensor] = _mean_inside,
    things_first: bool = False,
    one_class: bool = False,
    no_stuff: bool = True,
    cut: float = 0.0,
    empty: bool = False,
    resort: bool = True,
    all_pairs: bool = False,
) -> Objects:
    """``instances`` with some of its rules exchanged."""
    c = classes(class_logits)  # (Q, K)
    if one_class:
        c = torch.where(c == c.amax(1, keepdim=True), c, -1.0)
    if things_first:
        c = c[:, :T]
    scores, pairs = c.flatten().topk(c.numel() if all_pairs else min(most, c.numel()))
    query, label = pairs // c.shape[1], pairs % c.shape[1]
    kept = (scores >= 0) & ((label < T) | (not no_stuff))
    scores, query, label = scores[kept], query[kept], label[kept]
    scores = scores * quality(mask_logits.sigmoid())[query]
    masks = mask_logits[query] > cut
    if resort:
        order = scores.argsort(descending=True, stable=True)
        scores, label, masks = scores[order], label[order], masks[order]
    filled = masks.flatten(1).any(1) | empty
    return label[filled], scores[filled], masks[filled]


def _objects(**changes: Any) -> Callable[[Tensor, Tensor, int, int], Objects]:
    return lambda class_logits, mask_logits, T, most: _instances(class_logits, mask_logits, T, most, **changes)


def _best_products(class_logits: Tensor, mask_logits: Tensor, T: int, most: int) -> Objects:  # noqa: N803
    labels, scores, masks = _instances(class_logits, mask_logits, 10**6, 10**6)
    return tuple(part[:most][labels[:most] < T] for part in (labels, scores, masks))  # type: ignore[return-value]


def _instances_numpy(class_logits: Tensor, mask_logits: Tensor, T: int, most: int) -> tuple[Any, ...]:  # noqa: N803
    z = class_logits.numpy().astype(float)
    c = np.exp(z - z.max(1, keepdims=True))
    c = (c / c.sum(1, keepdims=True))[:, :-1]
    m = 1 / (1 + np.exp(-mask_logits.numpy().astype(float)))
    found = []
    for pair in np.argsort(-c.ravel())[:most]:
        q, k = divmod(int(pair), c.shape[1])
        inside = mask_logits[q].numpy() > 0
        if k < T and inside.any():
            found.append((c[q, k] * m[q][inside].mean(), k, inside))
    found.sort(key=lambda one: -one[0])
    masks = np.array([mask for _, _, mask in found]).reshape(-1, *m.shape[1:])
    return np.array([k for _, k, _ in found], dtype=int), np.array([s for s, _, _ in found]), masks


def _instances_by_loop(class_logits: Tensor, mask_logits: Tensor, T: int, most: int) -> list[Any]:  # noqa: N803
    classes = class_logits.softmax(1)[:, :-1]
    pairs = [(float(classes[q, k]), q, k) for q in range(len(classes)) for k in range(classes.shape[1])]
    pairs.sort(reverse=True)
    found = []
    for score, q, k in pairs[:most]:
        logits = mask_logits[q]
        if k < T and (logits > 0).any():
            found.append((score * float(logits[logits > 0].sigmoid().mean()), k, logits > 0))
    found.sort(key=lambda one: one[0], reverse=True)
    masks = torch.stack([mask for _, _, mask in found]) if found else torch.zeros(0, *mask_logits.shape[1:])
    return [torch.tensor([k for _, k, _ in found]), torch.tensor([s for s, _, _ in found]), masks]


def _instance_cases() -> Mapping[str, tuple[Tensor, Tensor, int, int]]:
    draw = torch.Generator().manual_seed(31)

    def case(classes: list[list[float]], masks: list[list[float]], most: int) -> Any:
        return torch.tensor(classes).log(), torch.tensor(masks)[:, None], 2, most

    person, other, sky = [0.85, 0.05, 0.04, 0.06], [0.15, 0.7, 0.1, 0.05], [0.02, 0.03, 0.9, 0.05]
    return {
        "three queries, three pairs": case(
            [person, other, sky], [[3.0, 2, -1, -2], [-3, -1, 1, 0.5], [1, 2, 3, -1]], 3
        ),
        "a query with two classes": case([[0.5, 0.4, 0.06, 0.04], sky], [[2.0, -1, 1], [1, 1, -2]], 4),
        "a sure class and a mask that is not": case([person, other], [[0.1, 0.2, -3], [-4, 5, 6]], 4),
        "stuff that takes places": case([sky, sky, person, other], [[1.0, 1], [2, 1], [1, -1], [-1, 3]], 3),
        "a mask that is empty": case([person, other], [[-1.0, -2, -3], [1, -1, 2]], 3),
        "logits of exactly 0": case([person, other], [[0.0, 2, -1], [1, 0, 0.25]], 4),
        "fewer pairs than wanted": case([person, sky], [[1.0, -1], [-1, 1]], 100),
        "a query that says no object": case([[0.1, 0.06, 0.04, 0.8], person], [[4.0, 4], [1, -1]], 5),
        "eight queries of noise": (
            2 * torch.randn(8, 6, generator=draw),
            2 * torch.randn(8, 4, 5, generator=draw),
            3,
            12,
        ),
        "stuff alone": case([sky], [[1.0, 2]], 1),
    }


INSTANCES = Exercise(
    solution=instances,
    wrong={
        "one_class_a_query": (
            _objects(one_class=True),
            "Each query has one class in your answer. All pairs of a query and a class compete.",
        ),
        "things_first": (
            _objects(things_first=True),
            "You drop stuff before you take the best pairs. Stuff takes places among the `most` pairs.",
        ),
        "stuff_kept": (_objects(no_stuff=False), "Stuff is no object: keep the labels below T."),
        "softmax_of_the_rest": (
            _objects(classes=lambda z: z[:, :-1].softmax(1)),
            'You leave out "no object" before the softmax. It has its share of the probability.',
        ),
        "no_object_kept": (
            _objects(classes=lambda z: z.softmax(1)),
            'Pairs with "no object" take places in your answer. It is no class: leave the last column out.',
        ),
        "sigmoid": (
            _objects(classes=lambda z: z.sigmoid()[:, :-1]),
            "You take the sigmoid of the class logits. The classes of a query exclude each other: softmax.",
        ),
        "class_alone": (
            _objects(quality=lambda masks: torch.ones(len(masks))),
            "Your score is the class probability alone. Multiply it by the mean mask probability inside the mask.",
        ),
        "best_products": (
            _best_products,
            "You take the `most` pairs with the best products. Take them by class probability; the mask counts later.",
        ),
        "sum_inside": (
            _objects(quality=lambda masks: (masks * (masks > 0.5)).sum((1, 2))),
            "You sum the mask's probability. Take its mean inside the mask.",
        ),
        "scores_first": (
            lambda class_logits, mask_logits, T, most: tuple(
                instances(class_logits, mask_logits, T, most)[i] for i in (1, 0, 2)
            ),
            "The labels come first, then the scores, then the masks.",
        ),
        "lowest_first": (
            lambda class_logits, mask_logits, T, most: tuple(
                part.flip(0) for part in instances(class_logits, mask_logits, T, most)
            ),
            "Your objects come by rising score. The highest comes first.",
        ),
        "mean_everywhere": (
            _objects(quality=lambda masks: masks.mean((1, 2))),
            "You average the mask's probability over all pixels. Average over those inside the mask.",
        ),
        "not_resorted": (
            _objects(resort=False),
            "Your objects come by falling class probability. They come by falling score, mask included.",
        ),
        "zero_inside": (
            _objects(
                cut=-1e-6,
                quality=lambda masks: (masks * (masks >= 0.5)).sum((1, 2)) / (masks >= 0.5).sum((1, 2)).clamp(min=1),
            ),
            "A logit of exactly 0 is outside: the mask is where the logit is above 0.",
        ),
        "all_pairs": (_objects(all_pairs=True), "You return all pairs. Take the `most` with the highest probability."),
        "empty_kept": (_objects(empty=True), "An object without a pixel is none: drop empty masks."),
        "probabilities": (
            lambda class_logits, mask_logits, T, most: (
                *instances(class_logits, mask_logits, T, most)[:2],
                instances(class_logits, mask_logits, T, most)[2].float() * 0.5 + 0.25,
            ),
            "The masks are True where the logit is above 0, else False.",
        ),
        "more_than_there_are": (
            lambda class_logits, mask_logits, T, most: (
                class_logits[:, :-1].flatten().topk(most) and instances(class_logits, mask_logits, T, most)
            ),
            "There may be fewer pairs than `most`. Take as many as there are.",
        ),
    },
    right={"NumPy": _instances_numpy, "loops, as a list": _instances_by_loop},
    probes=_instance_cases,
    hint="Best `most` of Q · K pairs, things of them, score × mean mask probability inside, sorted, empty ones out.",
    sketch="""
        classes = class_logits.softmax(1)[:, ...]            # (Q, K)
        scores, pairs = classes.flatten().topk(min(most, ...))
        query, label = pairs // ..., pairs % ...
        thing = label < T                                    # now, not before
        ...
        inside = mask_logits[query] > 0                      # (N, H, W)
        scores = scores * (...).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
        order = scores.argsort(descending=True)
    """,
)


# Break the rule ------------------------------------------------------------------------------------------------------


def _is_hidden(attempt: Any) -> None:
    """Demands two queries of which the one with the higher score has a mask of some size and no pixel of the map."""
    pair = isinstance(attempt, tuple | list) and len(attempt) == 2
    expect(pair, "Give two things: the class probabilities and the mask probabilities.")
    try:
        classes, masks = (torch.as_tensor(np.asarray(part), dtype=torch.float64) for part in attempt)
    except (TypeError, ValueError):
        expect(False, "Give numbers: nested lists, arrays or tensors.")
    expect(classes.shape == (2, 3), "The class probabilities are (2, 3): two queries, two thing classes and no object.")
    expect(masks.shape == (2, 4, 4), "The mask probabilities are (2, 4, 4): a map of 4 × 4 for each query.")
    expect(all(bool(((x >= 0) & (x <= 1)).all()) for x in (classes, masks)), "Probabilities lie between 0 and 1.")
    expect(bool(((classes.sum(1) - 1).abs() < 1e-4).all()), "The three class probabilities of a query add up to 1.")
    scores, labels = classes.max(1)
    expect(bool((labels < 2).all()), 'The best class of both queries is a thing, not "no object".')
    expect(
        bool((scores > 0.8).all()), "Both best classes have a probability above 0.8: a query that is not sure is out."
    )
    expect(bool(scores[0] > scores[1]), "Query 0 has the higher class probability of the two.")
    expect(bool((masks[0] >= 0.5).sum() >= 8), "Query 0 has a mask of at least 8 pixels (probability ½ or more).")
    ids, categories = panoptic(classes, masks, 2, 0.8, 0.8)
    expect(len(categories) > 0, "Both queries are dropped. Query 1 must be in the map.")
    only_last = len(categories) == 1 and bool(((ids == 1) <= (masks[1] >= 0.5)).all())
    winner = (scores[:, None, None] * masks).argmax(0)
    kept = int((winner == 0).sum()) >= 0.8 * int((masks[0] >= 0.5).sum())
    expect(not kept, "Query 0 still wins 80% of its mask's area or more. Where must query 1 have the higher product?")
    expect(only_last, "Query 1 must be in the map.")


def _pair(first: float, second: float, one: Any, two: Any) -> tuple[Tensor, Tensor]:
    """Class probabilities with these best ones, and two masks."""
    classes = torch.tensor(
        [[first, 0.5 * (1 - first), 0.5 * (1 - first)], [0.5 * (1 - second), second, 0.5 * (1 - second)]]
    )
    return classes, torch.stack([torch.as_tensor(x, dtype=torch.float32).expand(4, 4) for x in (one, two)])


_LEFT = torch.tensor([1.0, 1, 0, 0])

HIDE = Exercise(
    solution=_pair(0.95, 0.85, 0.6, _LEFT),
    wrong={
        "two_classes": (
            (torch.tensor([[0.95, 0.05], [0.1, 0.9]]), torch.ones(2, 4, 4)),
            "The class probabilities are (2, 3): two queries, two thing classes and no object.",
        ),
        "three": ((1, 2, 3), "Give two things: the class probabilities and the mask probabilities."),
        "flat_masks": (
            (_pair(0.95, 0.85, 0.6, _LEFT)[0], torch.zeros(2, 16)),
            "The mask probabilities are (2, 4, 4): a map of 4 × 4 for each query.",
        ),
        "logits": (_pair(0.95, 0.85, 3.0, _LEFT), "Probabilities lie between 0 and 1."),
        "no_sum": (
            (torch.tensor([[0.95, 0.2, 0.1], [0.1, 0.9, 0.1]]), _pair(0.95, 0.85, 0.6, _LEFT)[1]),
            "The three class probabilities of a query add up to 1.",
        ),
        "no_object": (
            (torch.tensor([[0.02, 0.02, 0.96], [0.1, 0.85, 0.05]]), _pair(0.95, 0.85, 0.6, _LEFT)[1]),
            'The best class of both queries is a thing, not "no object".',
        ),
        "not_sure": (
            _pair(0.7, 0.6, 0.6, _LEFT),
            "Both best classes have a probability above 0.8: a query that is not sure is out.",
        ),
        "lower": (_pair(0.85, 0.95, 0.6, _LEFT), "Query 0 has the higher class probability of the two."),
        "small": (
            _pair(0.95, 0.85, torch.tensor([0.6, 0, 0, 0]), _LEFT),
            "Query 0 has a mask of at least 8 pixels (probability ½ or more).",
        ),
        "still_there": (
            _pair(0.95, 0.85, 0.9, torch.tensor([1.0, 0, 0, 0]) * 0.5),
            "Query 0 still wins 80% of its mask's area or more. Where must query 1 have the higher product?",
        ),
        "both_gone": (
            _pair(0.95, 0.85, torch.tensor([0.9, 0.9, 0.6, 0.6]), torch.tensor([0.8, 0.8, 1.0, 1.0])),
            "Both queries are dropped. Query 1 must be in the map.",
        ),
    },
    right={
        "lists": [[[0.9, 0.05, 0.05], [0.1, 0.85, 0.05]], [[[0.7] * 4] * 4, [[0.9] * 4] * 4]],
        "arrays": tuple(x.numpy() for x in _pair(0.99, 0.81, 0.5, 1.0)),
    },
    verify=_is_hidden,
    compared=False,
    sketch="""
        classes = [[0.9, ..., ...], [..., 0.85, ...]]        # query 0 is surer
        masks = [[[...] * 4] * 4, [[...] * 4] * 4]           # but whose product is higher?
    """,
)
