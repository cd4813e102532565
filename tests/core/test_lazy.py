"""Public functions as objects."""

from __future__ import annotations

import pickle

import spared_sc as sp


def test_public_functions_can_be_sent_to_other_processes():
    for function in (sp.tl.score_prediction, sp.pp.center, sp.get.predicted):
        assert pickle.loads(pickle.dumps(function)) is function
