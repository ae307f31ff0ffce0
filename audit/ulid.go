package audit

import (
	"fmt"
	"io"

	"github.com/oklog/ulid/v2"
)

// nextID is the ULID of the instant us that sorts after last.
func nextID(last string, us int64, entropy io.Reader) (text [ulid.EncodedSize]byte, err error) {
	var id ulid.ULID
	ms := uint64(us / 1000)
	if last != "" {
		if id, err = ulid.ParseStrict(last); err != nil {
			return text, fmt.Errorf("id of the last entry: %w", err)
		}
	}
	if last != "" && id.Time() >= ms {
		for i := len(id) - 1; ; i-- { // all 128 bits: when the random part is used up, the time counts on
			if i < 0 {
				return text, fmt.Errorf("%w: no id sorts after %s", ErrEvent, last)
			}
			if id[i]++; id[i] != 0 {
				break
			}
		}
	} else {
		if err = id.SetTime(ms); err != nil {
			return text, fmt.Errorf("id: %w", err)
		}
		if _, err = io.ReadFull(entropy, id[6:]); err != nil {
			return text, fmt.Errorf("randomness for an id: %w", err)
		}
	}
	return text, id.MarshalTextTo(text[:])
}

// isULID tells whether id is a ULID as ULIDs are written: 26 characters of
// upper-case Crockford base32, the first at most 7.
func isULID(id []byte) bool {
	if len(id) != ulid.EncodedSize || id[0] > '7' {
		return false
	}
	for _, c := range id {
		if c -= '0'; c > 'Z'-'0' || crockford>>c&1 == 0 {
			return false
		}
	}
	return true
}

// crockford has a bit for each digit of the alphabet, counted from '0': all
// digits and capital letters but I, L, O and U.
const crockford = uint64(0x3ff | (1<<26-1)<<17&^(1<<('I'-'0')|1<<('L'-'0')|1<<('O'-'0')|1<<('U'-'0')))
