"""Our names of weights -> the keys of the reference modules in ``golden/keys``."""

import re

_GENERATOR = {
    "head": "Generators.0.0.0",
    "fuse": "Generators.0.2.0",
    "enlarge": "Generators.0.3.0",
    "tail": "Generators.0.4.0",
}


def generator_key(name: str) -> str:
    """``AFInterpolator`` -> reference generator."""
    part, _, rest = name.partition(".")
    if part in _GENERATOR:
        return f"{_GENERATOR[part]}.{rest}"
    match = re.fullmatch(r"group\.(\d)\.(?:grow\.(\d)|merge)\.weight", name)
    assert match, name
    block, conv = match.groups()
    prefix = f"Generators.0.1.RDBs.{block}"
    return f"{prefix}.conv5.weight" if conv is None else f"{prefix}.conv{int(conv) + 1}.0.weight"


def discriminator_key(name: str) -> str:
    """``PatchDiscriminator`` -> reference discriminator."""
    part, _, rest = name.partition(".")
    if part == "logits":
        return f"Discriminators.0.3.0.{rest}"
    block, _, rest = rest.partition(".")
    return f"Discriminators.0.{block}.0." + ("norm." if part == "norms" else "") + rest


def fpn_key(name: str) -> str:
    """``FPN`` -> reference FPN with the generator."""
    part, _, rest = name.partition(".")
    if part == "interpolator":
        return f"srf_module.{generator_key(rest)}"
    level, _, rest = rest.partition(".")
    return f"fpn_{'lateral' if part == 'laterals' else 'output'}{level[1:]}.{rest}"
