package asap

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

func TestCodeTable(t *testing.T) {
	seen := map[Code]bool{}
	for _, row := range CodeTable() {
		if seen[row.Code] {
			t.Errorf("%s stands in the table twice", row.Code)
		}
		seen[row.Code] = true
		if row.HTTP < 400 || row.HTTP > 599 || row.RPC >= 0 || row.Sentence == "" {
			t.Errorf("%+v", row)
		}
		if row.Code.Info() != row {
			t.Errorf("%s: Info() = %+v", row.Code, row.Code.Info())
		}
		if RPCMessage(row.RPC) == "Internal error" && row.RPC != RPCInternalError {
			t.Errorf("%s: number %d has no message", row.Code, row.RPC)
		}
	}
	if info := Code("no_such_code").Info(); info.RPC != RPCInternalError || info.HTTP != 500 {
		t.Errorf("%+v", info)
	}
	if RPCMessage(RPCHTTPRateLimited) != "Rate limit exceeded" {
		t.Error("429")
	}
	if len(seen) < 60 {
		t.Errorf("only %d codes", len(seen))
	}
}

func TestErrorAsRPC(t *testing.T) {
	for _, c := range []struct {
		err  *Error
		want string
	}{
		{CodeSenderMismatch.Err(""), `{"error":"Sender does not match authenticated identity","code":"sender_mismatch","status_code":403}`},
		{&Error{CodeInvalidTimestamp, "too old", jsontext.Value(`{"age_seconds":301}`)}, `{"error":"Invalid envelope timestamp","code":"asap:protocol/invalid_timestamp","message":"too old","details":{"age_seconds":301}}`},
		{&Error{CodeDelegationLimitTasks, "m", jsontext.Value(`{"used":5,"code":"x","held":0}`)}, `{"error":"The delegation's number of tasks is used up.","code":"delegation_limit_tasks","message":"m","status_code":403,"used":5,"held":0}`},
		{&Error{CodeInternal, "", jsontext.Value(`broken`)}, `{"error":"Internal server error","code":"internal"}`},
	} {
		if got := string(c.err.RPC().Data); got != c.want {
			t.Errorf("\n got %s\nwant %s", got, c.want)
		}
	}
	if got := CodeNotFound.Err("no x").Error(); got != "not_found: no x" {
		t.Error(got)
	}
	if got := CodeNotFound.Err("").Error(); got != "not_found" {
		t.Error(got)
	}
}

func TestValidationError(t *testing.T) {
	_, err := ParseManifest([]byte(`{"capabilities":{"skills":[{"id":1}],"mcp_tools":[1]},"sla":5,"ttl_seconds":true,"endpoints":[]}`))
	var invalid *ValidationError
	if !errors.As(err, &invalid) {
		t.Fatal(err)
	}
	const want = "id: Field required; name: Field required; version: Field required; description: Field required; capabilities.skills.0.id: Input should be a valid string; capabilities.skills.0.description: Field required; capabilities.mcp_tools.0: Input should be a valid string; endpoints: Input should be a valid dictionary or instance of Endpoint; sla: Input should be a valid dictionary or instance of SLADefinition"
	if err.Error() != want {
		t.Errorf("\n got %s\nwant %s", err, want)
	}
	b, err := json.Marshal(invalid)
	if err != nil || !strings.HasPrefix(string(b), `[{"type":"missing","loc":["id"],"msg":"Field required"},`) {
		t.Errorf("%s %v", b, err)
	}
}

func TestHostileDocumentsGetShortErrors(t *testing.T) {
	var b []byte
	for i := range 5000 {
		b = append(b, ',')
		b = appendString(b, strings.Repeat("x", 100)+strconv.Itoa(i))
		b = append(b, ":1"...)
	}
	b[0] = '{'
	for _, doc := range []string{string(b) + "}", `{"schemes":[` + strings.Repeat("1,", 5000) + `1]}`} {
		var invalid *ValidationError
		if err := Validate("envelope", []byte(doc)); !errors.As(err, &invalid) || len(invalid.Issues) > maxIssues || len(invalid.AppendJSON(nil)) > 20000 {
			t.Errorf("%d issues", len(invalid.Issues))
		}
		_, err := ParseMessageSend(jsontext.Value(strings.Replace(doc, "schemes", "parts", 1)))
		if !errors.As(err, &invalid) || len(invalid.Issues) != maxIssues {
			t.Errorf("%d issues", len(invalid.Issues))
		}
	}
}

// TestSLADefinitionCases holds the cases V1 to V6 of the SLA design.
func TestSLADefinitionCases(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"availability":"99.5%"}`: true, `{"availability":"99.5"}`: true, `{"availability":" 2.5 % "}`: true,
		`{"availability":"1.2.3%"}`: false, `{"availability":"."}`: false, `{"availability":""}`: false, `{"availability":"NaN%"}`: false, `{"availability":"1e2%"}`: false, `{"availability":"٩٩%"}`: false,
		`{"max_error_rate":"150%"}`: false, `{"max_error_rate":"-10%"}`: false,
		`{"max_latency_p95_ms":-1}`: false, `{"max_latency_p95_ms":1.5}`: false, `{"max_latency_p95_ms":0}`: true,
		`{}`: true, `{"support_hours":"follow-the-sun"}`: true,
	} {
		_, err := ParseManifest(withMember(t, goodManifest, "sla", jsontext.Value(text)))
		if (err == nil) != ok {
			t.Errorf("%s: %v, want accepted %v", text, err, ok)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "sla."+strings.Split(text, `"`)[1]+":") {
			t.Errorf("%s: no field path in %v", text, err)
		}
	}
}

func TestInvalidJSON(t *testing.T) {
	deep := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	for doc, part := range map[string]string{
		"":                       "empty document",
		" \n":                    "empty document",
		`{"a":1`:                 "unexpected end",
		`{"a":1}x`:               "data after the value at byte 7",
		`{"a":1,"a":2}`:          "duplicate member name at byte 7",
		`{"a":"` + "\xff" + `"}`: "invalid UTF-8 at byte",
		`{"a":"\ud800"}`:         "at byte",
		`{"a":NaN}`:              "syntax error at byte 5",
		"\ufeff{}":               "syntax error at byte 0",
		deep(MaxJSONDepth + 1):   "nested deeper than 512 levels",
		deep(20000):              "at byte",
		`[` + strings.Repeat("1", MaxNumberLength+1) + `]`: "a number of more than 4300 characters",
	} {
		err := checkJSON([]byte(doc))
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%.40q: %v, want %q", doc, err, part)
		}
	}
	for _, doc := range []string{deep(MaxJSONDepth), `["` + strings.Repeat("1", 2*MaxNumberLength) + `", {"a":[` + strings.Repeat("1, ", 3000) + `2]}]`, strings.Repeat(" ", 6000) + `{"a": true}`} {
		if err := checkJSON([]byte(doc)); err != nil {
			t.Errorf("%.40q: %v", doc, err)
		}
	}
}

func TestLaxTypes(t *testing.T) {
	for text, want := range map[string]int64{
		`5`: 5, `-5`: -5, `5.0`: 5, `5e2`: 500, `true`: 1, `false`: 0, `"5"`: 5, `" +5 "`: 5, `"-5"`: -5, `"1_000"`: 1000, `"6.0"`: 6, `"6."`: 6, `"0012"`: 12, `-0`: 0, `9223372036854775807`: 1<<63 - 1,
	} {
		if n, issue := laxInt(jsontext.Value(text)); n != want || issue != "" {
			t.Errorf("%s: %d %s", text, n, issue)
		}
	}
	for text, want := range map[string]string{
		`1.5`: "int_from_float", `"1.5"`: "int_parsing", `""`: "int_parsing", `"_1"`: "int_parsing", `"1_"`: "int_parsing", `"1__0"`: "int_parsing", `"a"`: "int_parsing", `"+"`: "int_parsing", `"+-1"`: "int_parsing",
		`".0"`: "int_parsing", `1e30`: issueIntSize, `1e999`: "finite_number", `9223372036854775808`: issueIntSize, `"9223372036854775808"`: issueIntSize, `null`: "int_type", `[]`: "int_type", `{}`: "int_type",
	} {
		if n, issue := laxInt(jsontext.Value(text)); issue != want || intMessage(issue) == "" {
			t.Errorf("%s: %d %s, want %s", text, n, issue, want)
		}
	}
	for text, want := range map[string]bool{`true`: true, `false`: false, `1`: true, `0`: false, `1.0`: true, `0.0`: false, `-0`: false, `"YES"`: true, `"Off"`: false, `"t"`: true, `"n"`: false, `"1"`: true} {
		if b, issue := laxBool(jsontext.Value(text)); b != want || issue != "" {
			t.Errorf("%s: %v %s", text, b, issue)
		}
	}
	for text, want := range map[string]string{`2`: issueBoolParsing, `"maybe"`: issueBoolParsing, `"TRUE "`: issueBoolParsing, `0.5`: "bool_type", `1e999`: "bool_type", `null`: "bool_type", `[]`: "bool_type"} {
		if _, issue := laxBool(jsontext.Value(text)); issue != want {
			t.Errorf("%s: %s, want %s", text, issue, want)
		}
	}
}
