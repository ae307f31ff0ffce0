package agent

import (
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// object writes an object from names and values in turn, in that order.
func object(pairs ...any) jsontext.Value {
	b := []byte{'{'}
	for i := 0; i < len(pairs); i += 2 {
		if i > 0 {
			b = append(b, ',')
		}
		b, _ = jsontext.AppendQuote(b, pairs[i].(string))
		b = append(b, ':')
		switch v := pairs[i+1].(type) {
		case string:
			b, _ = jsontext.AppendQuote(b, v)
		case int:
			b = strconv.AppendInt(b, int64(v), 10)
		case int64:
			b = strconv.AppendInt(b, v, 10)
		case jsontext.Value:
			if len(v) == 0 {
				v = jsontext.Value("null")
			}
			b = append(b, v...)
		default:
			b = append(b, mustJSON(v)...)
		}
	}
	return append(b, '}')
}

// mustJSON encodes a value made of types this package chose.
func mustJSON(v any) jsontext.Value {
	b, err := json.Marshal(v)
	if err != nil {
		panic("agent: encoding its own answer: " + err.Error())
	}
	return b
}

// member returns a member of a JSON object as it stands there.
func member(obj jsontext.Value, name string) (jsontext.Value, bool) {
	if obj.Kind() != '{' {
		return nil, false
	}
	var members map[string]jsontext.Value
	if json.Unmarshal(obj, &members) != nil {
		return nil, false
	}
	v, ok := members[name]
	return v, ok
}
