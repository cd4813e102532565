"""Random sections, whole and spoiled, through every public function with random arguments, right and wrong ones.

`helpers.fuzz` says how to try more of them, and how to repeat one. An input is a number: `inputs.Input(number)` makes the
section, spoils it and draws the call; `checks.run` makes the call and says what came of it.
"""
