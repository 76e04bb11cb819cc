"""Chat templates: a few by name, the inputs' most frequent one, or the recipe's own Jinja."""

import collections
from collections.abc import Iterable
from typing import Any

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.merge.files.references import Model

FILE = "chat_template.jinja"
_TURN = "{% if add_generation_prompt %}"
NAMED = {
    "alpaca": (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'user' %}"
        "{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
        "{% else %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}{% endif %}"
        "{% endfor %}" + _TURN + "{{ '### Response:\\n' }}{% endif %}"
    ),
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}" + _TURN + "{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "exaone": (
        "{% for message in messages %}"
        "{% if loop.first and message['role'] != 'system' %}{{ '[|system|][|endofturn|]\\n' }}"
        "{% endif %}{{ '[|' + message['role'] + '|]' + message['content'] }}"
        "{% if message['role'] == 'user' %}{{ '\\n' }}{% else %}{{ '[|endofturn|]\\n' }}{% endif %}"
        "{% endfor %}" + _TURN + "{{ '[|assistant|]' }}{% endif %}"
    ),
    "llama3": (
        "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' "
        "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        + _TURN
        + "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
        "{% else %}{{ raise_exception('only user and assistant take turns') }}{% endif %}"
        "{% endfor %}"
    ),
}


def template_of(model: Model) -> str | None:
    """A model's own chat template, or None."""
    if model.folder is None:
        return None
    file = model.folder / FILE
    if file.is_file():
        return file.read_text("utf-8", "replace").strip()
    found: Any = model.json("tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        named = {e.get("name"): e.get("template") for e in found if isinstance(e, dict)}
        found = named.get("default")
    return found.strip() if isinstance(found, str) and found.strip() else None


def choose_template(wanted: str | None, models: Iterable[Model]) -> str | None:
    """The output's chat template; None keeps the donor's.

    Args:
      wanted: `"auto"` (the most frequent among the models, the first of equals), a name, or Jinja.
      models: the inputs.

    Raises:
      WeightSpaceError: a word that is neither a known name nor Jinja.

    Example:
        >>> choose_template("chatml", []).startswith("{% for message in messages %}")
        True
    """
    if not wanted:
        return None
    if wanted == "auto":
        counts = collections.Counter(filter(None, map(template_of, models)))
        return counts.most_common(1)[0][0] if counts else None
    if wanted in NAMED:
        return NAMED[wanted]
    if "{" not in wanted:
        hint = did_you_mean(wanted, ["auto", *NAMED])
        raise WeightSpaceError(f"chat_template: {wanted!r} is neither a name nor Jinja.{hint}")
    return wanted
