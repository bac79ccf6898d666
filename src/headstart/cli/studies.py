"""Commands for many runs: compare them, report on them, repeat the field's lessons."""
