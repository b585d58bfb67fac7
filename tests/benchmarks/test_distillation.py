import pytest

from tests.benchmarks import distillation
from tests.benchmarks.cases import CASES


def test_without_options_every_case_is_measured():
    assert distillation.parsed(["out.json"]).cases == list(CASES)


def test_a_pair_and_a_batch_choose_one_case():
    (case,) = distillation.parsed(["out.json", "--pair", "6x384-3x192", "--batch", "8x512"]).cases
    assert (case.pair.label, case.batch.label) == ("6x384-3x192", "8x512")


def test_a_batch_that_a_pair_is_not_measured_at_is_refused(capsys):
    with pytest.raises(SystemExit):
        distillation.parsed(["out.json", "--pair", "12x768-3x192", "--batch", "8x512"])
    assert "got 12x768-3x192 at 8x512" in capsys.readouterr().err


def test_no_rounds_are_refused(capsys):
    with pytest.raises(SystemExit):
        distillation.parsed(["out.json", "--rounds", "0"])
    assert "invalid" in capsys.readouterr().err


def test_a_missing_peer_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "PEER_LOSS", tmp_path / "trainer.py")
    with pytest.raises(SystemExit, match="the peer must be installed"):
        distillation.main([str(tmp_path / "out.json")])
    assert not (tmp_path / "out.json").exists()
