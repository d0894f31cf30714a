"""Images are known again by their content."""

from seglib.commands.images import kept, known_image_warnings
from seglib.data.catalog import OwnFiles
from seglib.data.fingerprints import MOST, count_known, fingerprints


def test_a_file_is_known_by_its_content_under_any_name(tmp_path):
    content = {"a": b"1", "b": b"2", "c": b"1", "d": bytes(2**20), "e": bytes(2**20 + 1), "f": bytes(2**20 - 1) + b"x"}
    for name, its in content.items():
        (tmp_path / name).write_bytes(its)
    a, b, c, d, e, f = (tmp_path / name for name in content)
    known = fingerprints([b, a])
    assert len(known) == 2 * 16 and known == fingerprints([a, b])
    assert count_known([c, d], known) == 1 and count_known([c, a], known) == 2 and count_known([a], "") == 0
    assert count_known([d], fingerprints([e, f])) == 0


def test_of_very_many_images_nothing_is_read():
    class Many:
        def __len__(self):
            return MOST + 1

        @property
        def image_files(self):
            raise AssertionError("reading through the entries takes long")

    assert kept(OwnFiles(), Many())["trained_on"] == ""
    assert known_image_warnings(Many(), {"trained_on": "0" * 16}, None) == []
