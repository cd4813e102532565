from ._audit import audit as audit
from ._compare_completions import compare_completions as compare_completions
from ._missing_share import missing_share as missing_share
from ._predicted import predicted as predicted
from ._prediction_summary import prediction_summary as prediction_summary
