from .entries import missing_share as missing_share
