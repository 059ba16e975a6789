"""The gate: what it calls worse, and how often it is wrong."""

from xml.etree.ElementTree import fromstring

import pytest
import torch

from hopfield_replay.analysis import Gate, Journal, as_junit, as_markdown, audit
from hopfield_replay.denoisers import CallableDenoiser

stats = pytest.importorskip("scipy.stats")


def exponential(count, draws):
    return -torch.rand(count, generator=draws, dtype=torch.float64).clamp_min(1e-300).log()


def ratios(count, draws):
    """What the errors are multiplied with: normal noise before and after."""
    return tuple(1 + 0.2 * torch.randn(count, generator=draws).double() for _ in "ab")


def rare_gains(count, draws):
    """A few samples improve far more than any gets worse; on average none does."""
    return torch.ones(count).double(), 1 - 0.3 * (exponential(count, draws) - 1)


def false_alarms(audits, classes, size, rise=0.0, seed=0, kind=ratios):
    """Share of audits of two equally good models that fail, and share in which the one class that rose is found."""
    draws = torch.Generator().manual_seed(seed)
    groups = {str(number): range(number * size, (number + 1) * size) for number in range(classes)}
    alarms = found = 0
    for _ in range(audits):
        difficulty = 0.05 + 0.1 * exponential(classes * size, draws)
        old, new = (difficulty * ratio for ratio in kind(len(difficulty), draws))
        new[:size] *= 1 + rise
        failing = Gate.of(old, new, groups, 0.0).failing
        alarms += bool(failing)
        found += "0" in failing
    return alarms / audits, found / audits


@pytest.mark.heavy
def test_a_thousand_audits_of_fifty_classes_cry_wolf_at_most_as_often_as_they_say():
    alarms, _ = false_alarms(1000, 50, 20)
    assert alarms <= 0.05
    assert false_alarms(100, 50, 20, rise=0.6)[1] >= 0.75
    assert false_alarms(100, 50, 100, rise=0.25)[1] >= 0.9


@pytest.mark.heavy
def test_a_thousand_audits_with_rare_large_gains_cry_wolf_at_most_as_often_as_they_say():
    assert false_alarms(1000, 50, 20, kind=rare_gains)[0] <= 0.05


@pytest.mark.slow
def test_few_audits_cry_wolf_rarely():
    alarms, _ = false_alarms(60, 50, 20, seed=1)
    assert alarms <= 0.1  # at a rate of 5 % more than 6 of 60 have a chance of 3 %
    assert false_alarms(60, 50, 20, seed=1, kind=rare_gains)[0] <= 0.1  # a third, with each group's own skewness alone


def test_chances_are_those_of_a_literal_test():
    draws = torch.Generator().manual_seed(0)
    old = 1 + torch.rand(12, generator=draws, dtype=torch.float64)
    new = old + 0.3 + 0.1 * torch.randn(12, generator=draws, dtype=torch.float64)
    (test,) = Gate.of(old, new, {"a": range(12)}, 0.1).groups
    excess = (new - 1.1 * old).numpy()
    plain = stats.ttest_1samp(excess, 0.0, alternative="greater").pvalue
    share, skew = excess.mean() / excess.std(ddof=1), stats.skew(excess, bias=False)
    corrected = 12**0.5 * (share + skew * share**2 / 3 + skew**2 * share**3 / 27 + skew / 72)
    assert test.chance == pytest.approx(max(plain, stats.t.sf(corrected, 11)), rel=1e-6)
    assert test.relative == pytest.approx(float((new - old).mean() / old.mean()))


def test_the_skewness_that_all_groups_share_is_that_of_a_literal_loop():
    """Of one sample in a hundred that improves much, most groups of ten hold none."""
    draws = torch.Generator().manual_seed(3)
    scales = [1.0, 5.0, 0.2, 2.0] * 10
    old = torch.cat([scale * (1 + torch.rand(10, generator=draws, dtype=torch.float64)) for scale in scales])
    new = old * (1.05 - 0.1 * exponential(400, draws))
    groups = {str(n): range(10 * n, 10 * n + 10) for n in range(40)}
    tests = Gate.of(old, new, {"all": range(400), **groups}, 0.0).groups
    deviations = []
    for rows in groups.values():
        excess = [float(new[at] - old[at]) for at in rows]
        mean, size = sum(excess) / 10, sum(float(old[at]) for at in rows) / 10
        deviations += [(one - mean) / size for one in excess]
    second = sum(d**2 for d in deviations) / 400 * 10 / 9
    skew = sum(d**3 for d in deviations) / 400 * 100 / 72 / second**1.5
    z = [d / second**0.5 * (10 / 9) ** 0.5 for d in deviations]
    influence = [one**3 - 3 * one - 1.5 * skew * (one**2 - 1) for one in z]
    shared = skew + float(torch.tensor(influence, dtype=torch.float64).std()) / 20
    assert shared < -0.5
    taken = 0
    for test in tests:
        rows = range(400) if test.name == "all" else groups[test.name]
        excess, n = (new - old)[list(rows)].numpy(), len(rows)
        share, own = excess.mean() / excess.std(ddof=1), stats.skew(excess, bias=False)
        wanted = [stats.ttest_1samp(excess, 0.0, alternative="greater").pvalue]
        for g in (own, shared):
            corrected = share + g * share**2 / 3 + g**2 * share**3 / 27 + g / (6 * n)
            wanted.append(stats.t.sf(n**0.5 * corrected, n - 1))
        assert test.chance == pytest.approx(max(wanted), rel=1e-6)
        taken += max(wanted) == wanted[2]
    assert taken > 5


def test_small_groups_are_not_tested_and_equal_errors_pass():
    ones = torch.ones(5)
    gate = Gate.of(ones, ones, {"a": [0, 1, 2], "b": [3], "c": []}, 0.0)
    assert (gate.passed, gate.untested) == (True, ("b", "c"))
    assert Gate.of(ones, 2 * ones, {"a": range(5)}, 0.5).failing == ("a",)
    assert Gate.of(ones, 2 * ones, {"a": range(5)}, 1.0).passed
    for arguments, message in (
        (({"b": [3]}, 0.1), "at least two samples in a group"),
        (({"a": range(5)}, float("nan")), "threshold must be a number"),
        (({"a": range(5)}, 0.1, 1.5), r"level must lie in \(0, 1\), got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            Gate.of(ones, ones, *arguments)


SCHEDULE = torch.linspace(0.99, 0.01, 10)


def model(value):
    return CallableDenoiser(
        lambda x, t: torch.full_like(x, value) + 0.05 * x, SCHEDULE, prediction_type="sample"
    )  # fmt: skip


def test_what_was_trained_on_may_change():
    data = {"old": torch.zeros(6, 1, 2, 2), "new": torch.ones(6, 1, 2, 2)}
    report = audit(model(1.0), model(0.0), data, labels=["a", "b"] * 6, draws=3)
    gate = report.gate(0.1)
    assert {"all samples", "task old", "task new", "class a", "class b"} == {one.name for one in gate.groups}
    assert "task new" in gate.failing
    spared = report.gate(0.1, exempt=["new"])
    assert spared.passed
    assert {one.name: one.samples for one in spared.groups} == {
        "all samples": 6, "task old": 6, "class a": 3, "class b": 3,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"there are no tasks \['newer'\]"):
        report.gate(0.1, exempt=["newer"])


def test_rises_are_standardized_by_their_own_noise_over_draws():
    data = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    old, new = model(0.0), model(0.5)
    report = audit(old, new, data, draws=5, timesteps=[3, 6], seed=2)
    from hopfield_replay.functional import reconstruction_errors

    errors = [reconstruction_errors(one, data, [3, 6], 2, draws=5) for one in (old, new)]
    by_draw = (errors[1] - errors[0]).mean(1).numpy()
    torch.testing.assert_close(report.noise.numpy(), stats.sem(by_draw, axis=1))
    torch.testing.assert_close(report.standardized.numpy(), by_draw.mean(1) / stats.sem(by_draw, axis=1))
    assert "times their own noise over draws" in report.table()
    assert audit(old, new, data).standardized is None


def test_reports_of_ci_hold_what_they_are_told_as_text():
    ones = torch.ones(4)
    gates = {"lora <1> & | two": Gate.of(ones, 2 * ones, {"class <b>|c": range(4), "x\x07y": [1]}, 0.1)}
    root = fromstring(as_junit(gates, 1.5).partition("\n")[2])
    assert (root.get("tests"), root.get("failures"), root.get("skipped"), root.get("time")) == ("2", "1", "1", "1.500")
    case = root.find("testsuite/testcase")
    assert (case.get("name"), case.get("classname")) == ("class <b>|c", "lora <1> & | two")
    assert case.find("failure").get("message").startswith("relative rise +100.0%, allowed 10.0%")
    text = as_markdown(gates, {"data": "a|b"})
    assert "FAILED" in text.splitlines()[0]
    assert r"class \<b>\|c" in text
    assert r"- data: a\|b" in text


class Counting:
    num_timesteps = 10
    noise = staticmethod(lambda clean, timestep, noise: clean + noise)
    snr = staticmethod(lambda timestep: 1.0 / (1 + timestep))

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = 0, fail_at

    def predict_clean(self, noisy, timestep, condition=None):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        return 0.5 * noisy


def test_an_audit_that_is_interrupted_goes_on_where_it_was(tmp_path):
    data = list(torch.randn(12, 1, 2, 2, generator=torch.Generator().manual_seed(0)).split(3))
    options = {"timesteps": [3, 5], "examples": 0}
    whole = audit(Counting(), Counting(), data, **options)
    with pytest.raises(KeyboardInterrupt):
        audit(Counting(), Counting(fail_at=5), data, journal=Journal(tmp_path, "a b"), **options)
    assert len(list(tmp_path.iterdir())) == 2
    next(tmp_path.iterdir()).write_bytes(b"torn")  # measured again
    models = Counting(), Counting()
    resumed = audit(*models, data, journal=Journal(tmp_path, "a b"), **options)
    assert [one.calls for one in models] == [6, 6]  # three of four batches, at two timesteps
    torch.testing.assert_close(resumed.errors_new, whole.errors_new, rtol=0.0, atol=0.0)
    others = Counting(), Counting()
    audit(*others, data, journal=Journal(tmp_path, "a c"), **options)
    assert others[0].calls == 8


def test_the_first_version_is_measured_once_for_several_second_ones(tmp_path):
    data = list(torch.randn(12, 1, 2, 2, generator=torch.Generator().manual_seed(0)).split(3))
    options = {"timesteps": [3, 5], "examples": 0}
    first, reports = Counting(), []
    for after in ("b", "c"):
        journal = Journal(tmp_path, f"a {after}", "a")
        reports.append(audit(first, Counting(), data, journal=journal, **options))
    assert first.calls == 8
    torch.testing.assert_close(reports[1].errors_old, audit(Counting(), Counting(), data, **options).errors_old)
    audit(first, Counting(), data, journal=Journal(tmp_path, "a2 b", "a2"), **options)
    assert first.calls == 16


def test_first_errors_that_were_measured_in_other_chunks_are_measured_again(tmp_path):
    """Rounding depends on how many samples go through a model together."""
    data = torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    options = {"timesteps": [3], "examples": 0}
    audit(Counting(), Counting(), data, journal=Journal(tmp_path, "a b", "a"), **options)

    class Cramped(Counting):
        def predict_clean(self, noisy, timestep, condition=None):
            if len(noisy) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().predict_clean(noisy, timestep)

    first = Counting()
    audit(first, Cramped(), data, journal=Journal(tmp_path, "a c", "a"), **options)
    assert first.calls == 3


def report_of(rises, labels=None):
    """An audit that found these rises, over an error of one."""
    from hopfield_replay.analysis import AuditReport
    from hopfield_replay.analysis.auditing import _as_dicts
    from hopfield_replay.analysis.drift import drift

    old = torch.ones(len(rises), dtype=torch.float64)
    new = old + torch.tensor(rises, dtype=torch.float64)
    return AuditReport(
        errors_old=old[:, None], errors_new=new[:, None], rises=new - old, worst=(old - new).argsort(),
        overall=drift(old, new, 0), classes=_as_dicts((old, new), labels, 0), tasks={}, timesteps=(1.0,),
        model_energy_old=None, model_energy_new=None, energies=None, energy_rises=None, correlations={}, beta=None,
        examples=None, names=(), labels=tuple(labels or ()), task_of=(), warnings=(),
    )  # fmt: skip


def test_a_series_draws_every_groups_curve_and_marks_the_last_that_passes():
    from hopfield_replay.analysis import AuditSeries

    reports = {
        name: report_of([step, step, 3 * step, 3.1 * step], ["cat", "cat", "dog", "dog"])
        for name, step in (("step <1>", 0.01), ("step 2", 0.02), ("step 3", 0.2))
    }
    series = AuditSeries(reports, {name: report.gate(0.1) for name, report in reports.items()})
    assert series.last_passing == "step 2"
    assert series.curves["class dog"] == pytest.approx([0.0305, 0.061, 0.61])
    (axis,) = series.figures()["series"].axes
    lines = {line.get_label(): line for line in axis.lines}
    assert lines["class dog"].get_ydata() == pytest.approx([3.05, 6.1, 61.0])
    assert set(lines["allowed"].get_ydata()) == {10.0}
    assert set(lines["last that passes"].get_xdata()) == {1}
    page = series.html()
    assert "step &lt;1&gt;" in page
    assert "step <1>" not in page
    untested = AuditSeries(reports, {})
    assert (untested.last_passing, "allowed" in {line.get_label() for line in untested.plot().axes.lines}) == (
        None,
        False,
    )
    assert repr(untested) == "AuditSeries(3 versions)"
    assert series.to_dict()["versions"][2] == {"version": "step 3", "relative": pytest.approx(0.405), "passed": False}


def test_of_many_groups_the_worst_are_drawn():
    from hopfield_replay.figures import rises_over_versions

    curves = {"all samples": [0.0, 0.0], **{f"class {n}": [0.0, n / 100] for n in range(20)}}
    (axis,) = rises_over_versions(["a", "b"], curves).axes
    drawn = axis.get_legend_handles_labels()[1]
    assert drawn == ["all samples", *(f"class {n}" for n in range(19, 12, -1))]
