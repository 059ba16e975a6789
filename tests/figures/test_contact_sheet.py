"""A contact sheet shows every picture, in reading order."""

import pytest
import torch

from hopfield_replay.figures import contact_sheet


def test_pictures_stand_in_rows_and_parts_below_each_other():
    values = torch.linspace(0, 1, 7)
    some, none = values.view(7, 1, 1, 1).expand(7, 1, 4, 4), torch.zeros(0, 1, 4, 4)
    (axis,) = contact_sheet([("all", some), ("none", none)], per_row=3).axes
    sheet = torch.from_numpy(axis.images[0].get_array().data)
    assert sheet.shape == (3 * 5 - 1, 3 * 5 - 1, 3)  # a gap of one pixel between pictures of four
    corners = [float(sheet[5 * (i // 3), 5 * (i % 3), 0]) for i in range(7)]
    assert corners == pytest.approx(values.tolist())
    assert sheet[10:, 5:].unique().tolist() == [1.0]  # the places that are left stay white


def test_a_title_is_text_and_what_is_no_picture_is_refused():
    figure = contact_sheet([("$\\bad", torch.rand(2, 3, 4, 4))])
    figure.draw_without_rendering()
    for parts in ([("x", torch.rand(2, 5))], [], [("x", torch.zeros(0, 1, 4, 4))]):
        with pytest.raises(ValueError, match="no pictures"):
            contact_sheet(parts)
