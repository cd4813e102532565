from .completion import compare_completions as compare_completions
from .entries import missing_share as missing_share
from .prediction import predicted as predicted
