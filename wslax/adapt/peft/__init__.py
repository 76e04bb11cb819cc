"""Adapters in PEFT's folders."""
