package metering

import "errors"

// NanoUSD is an amount of US dollars in units of 10^-9, the only money type of
// this project. Arithmetic is checked; see [NanoUSD.Add].
type NanoUSD int64

// ErrOverflow reports an amount that does not fit an int64 of nano-dollars.
var ErrOverflow = errors.New("amount exceeds what nano-dollars can hold")
