"""The variants of the ablation differ from the base as their names say."""

from __future__ import annotations

from dataclasses import fields, replace

from retllm.evaluation.variants import Variant, ablations, chosen, for_choices
from retllm.fine import Injection

BASE = chosen(10, "true_false", Injection())
MADE = {variant.name: variant for variant in ablations(BASE, layers=28)}


def differs(variant: Variant) -> set[str]:
    return {field.name for field in fields(Variant) if getattr(variant, field.name) != getattr(BASE, field.name)}


def test_each_variant_changes_only_the_expected_fields():
    assert {name: differs(variant) - {"name"} for name, variant in MADE.items()} == {
        "all": set(),
        "entropy only": {"injection"},
        "enhancement only": {"entropy"},
        "neither": {"injection", "entropy"},
        **{f"k={k}": {"k"} for k in (3, 5, 7, 9, 20)},
        "adaptive": {"k", "adaptive"},
        **{f"fusion {weight}": {"fusion"} for weight in ("0.25", "0.5", "1")},
        "mode verbalized": {"mode"},
        "mode choice": {"mode"},
        "fixed, all": {"injection"},
        "fixed, suffix": {"injection"},
    }


def test_re_injection_is_off_or_fixed_at_the_middle_layer():
    assert MADE["entropy only"].injection == Injection(trigger="off")
    assert MADE["fixed, suffix"].injection == Injection(trigger="fixed", fixed_layer=14, scope="suffix")
    assert MADE["fixed, all"].injection == Injection(trigger="fixed", fixed_layer=14, scope="all")


def test_the_mode_of_the_base_is_compared_with_the_other_two_modes():
    names = [variant.name for variant in ablations(replace(BASE, mode="choice"), layers=28)]
    assert [name for name in names if name.startswith("mode")] == ["mode true_false", "mode verbalized"]


def test_choices_between_two_captions_have_no_variants_of_the_pool_size():
    names = [variant.name for variant in for_choices(list(MADE.values()))]
    assert not [name for name in names if name.startswith("k=") or name == "adaptive"]
    assert {variant.k for variant in for_choices(list(MADE.values()))} == {2}
    assert names[:4] == ["all", "entropy only", "enhancement only", "neither"]
