package delegation

import (
	"strings"
	"testing"

	asap "github.com/asap-protocol/asap-go"
)

func TestMalformed(t *testing.T) {
	good := rootToken("")
	parts := strings.Split(good, ".")
	header := func(h string) string { return jws(h, rootClaims+"}", keyOf(agentA)) }
	with := func(pairs ...string) string { return jws(rootHeader, claims(pairs...), keyOf(agentA)) }
	long := strings.Repeat("x", 300)
	for name, token := range map[string]string{
		"empty":                      "",
		"separator alone":            "~",
		"trailing separator":         good + "~",
		"one part":                   "abc",
		"two parts":                  parts[0] + "." + parts[1],
		"four parts":                 good + ".x",
		"five parts":                 good + "..",
		"leading space":              " " + good,
		"trailing line feed":         good + "\n",
		"line feed in header":        parts[0][:4] + "\n" + parts[0][4:] + "." + parts[1] + "." + parts[2],
		"line feed in payload":       parts[0] + "." + parts[1][:4] + "\r\n" + parts[1][4:] + "." + parts[2],
		"line feed in signature":     parts[0] + "." + parts[1] + "." + parts[2][:4] + "\n" + parts[2][4:],
		"line feed for a character":  parts[0] + "." + parts[1] + "." + parts[2][:4] + "\n" + parts[2][5:],
		"padded":                     good + "==",
		"standard alphabet":          parts[0] + "." + parts[1] + ".+" + parts[2][1:],
		"stray bits":                 good[:len(good)-1] + string(good[len(good)-1]+1),
		"no signature":               parts[0] + "." + parts[1] + ".",
		"short signature":            good[:len(good)-2],
		"long signature":             good + "AA",
		"header not JSON":            header("hello"),
		"header array":               header("[]"),
		"header trailing":            header(rootHeader + "1"),
		"header twice":               header(rootHeader + rootHeader),
		"alg twice":                  header(`{"alg":"EdDSA","alg":"EdDSA"}`),
		"alg twice, escaped":         header(`{"alg":"EdDSA","\u0061lg":"EdDSA"}`),
		"alg null":                   header(`{"alg":null}`),
		"typ of another token":       header(`{"alg":"EdDSA","typ":"dpop+jwt"}`),
		"typ not text":               header(`{"alg":"EdDSA","typ":1}`),
		"kid empty":                  header(`{"alg":"EdDSA","kid":""}`),
		"kid long":                   header(`{"alg":"EdDSA","kid":"` + long + `"}`),
		"crit unknown":               header(`{"alg":"EdDSA","crit":["x"],"x":1}`),
		"crit unknown besides known": header(`{"alg":"EdDSA","crit":["asap-chain","x"],"asap-chain":1,"x":1}`),
		"crit empty":                 header(`{"alg":"EdDSA","crit":[]}`),
		"crit text":                  header(`{"alg":"EdDSA","crit":"asap-chain","asap-chain":1}`),
		"crit twice":                 header(`{"alg":"EdDSA","crit":["asap-chain","asap-chain"],"asap-chain":1}`),
		"crit without parameter":     header(`{"alg":"EdDSA","crit":["asap-chain"]}`),
		"other chain version":        header(`{"alg":"EdDSA","crit":["asap-chain"],"asap-chain":2}`),
		"chain version true":         header(`{"alg":"EdDSA","crit":["asap-chain"],"asap-chain":true}`),
		"b64":                        header(`{"alg":"EdDSA","b64":false,"crit":["b64"]}`),
		"unknown parameter":          header(`{"alg":"EdDSA","foo":1}`),
		"jwk text":                   header(`{"alg":"EdDSA","jwk":"x"}`),
		"x5c text":                   header(`{"alg":"EdDSA","x5c":"x"}`),
		"jku object":                 header(`{"alg":"EdDSA","jku":{}}`),
		"jwk broken":                 header(`{"alg":"EdDSA","jwk":{"x"}}`),
		"payload array":              jws(rootHeader, "[]", keyOf(agentA)),
		"payload null":               jws(rootHeader, "null", keyOf(agentA)),
		"payload empty":              jws(rootHeader, "", keyOf(agentA)),
		"payload trailing":           jws(rootHeader, rootClaims+"} x", keyOf(agentA)),
		"payload BOM":                jws(rootHeader, "\ufeff"+rootClaims+"}", keyOf(agentA)),
		"too deep":                   rootToken(`,"x":[[[[1]]]]`),
		"too deep, objects":          rootToken(`,"x":{"x":{"x":{"x":{}}}}`),
		"duplicate deep down":        rootToken(`,"x":{"y":1,"y":1}`),
		"invalid UTF-8":              rootToken(`,"x":"` + "\xff" + `"`),
		"lone surrogate":             rootToken(`,"x":"\ud800"`),
		"control character":          rootToken(",\"x\":\"\x01\""),
		"iss missing":                with(`"iss"`, `"ISS"`),
		"iss number":                 with(`"urn:asap:agent:a"`, `5`),
		"iss no URN":                 with(`agent:a"`, `agent:A"`),
		"iss long":                   with(`agent:a"`, `agent:`+long+`"`),
		"iss with NUL":               with(`agent:a"`, `agent:a\u0000"`),
		"aud empty list":             with(`"urn:asap:agent:b"`, `[]`),
		"aud two":                    with(`"urn:asap:agent:b"`, `["urn:asap:agent:b","urn:asap:agent:b"]`),
		"aud nested":                 with(`"urn:asap:agent:b"`, `[["urn:asap:agent:b"]]`),
		"aud broken list":            with(`"urn:asap:agent:b"`, `["urn:asap:agent:b";]`),
		"jti empty":                  with(`"del_root"`, `""`),
		"jti long":                   with(`"del_root"`, `"`+long+`"`),
		"jti line feed":              with(`"del_root"`, `"a\nb"`),
		"iat text":                   with(`1799999940`, `"1799999940"`),
		"iat negative":               with(`1799999940`, `-1`),
		"exp fraction":               with(`1800003600`, `1800003600.0`),
		"exp exponent":               with(`1800003600`, `1.8e9`),
		"exp overflow":               with(`1800003600`, `9223372036854775808`),
		"exp leading zero":           with(`1800003600`, `01800003600`),
		"exp equals iat":             with(`1800003600`, `1799999940`),
		"367 days":                   with(`1800003600`, `1831622341`),
		"nbf text":                   rootToken(`,"nbf":"5"`),
		"scp missing":                with(`"scp"`, `"scope"`),
		"scp text":                   with(`["task.execute","data.read"]`, `"*"`),
		"scp empty":                  with(`["task.execute","data.read"]`, `[]`),
		"scp number":                 with(`"task.execute"`, `1`),
		"scp empty text":             with(`"task.execute"`, `""`),
		"scp pattern":                with(`"task.execute"`, `"task.*"`),
		"scp space":                  with(`"task.execute"`, `"task.execute "`),
		"scp not ASCII":              with(`"task.execute"`, `"tаsk.execute"`),
		"scp long":                   with(`"task.execute"`, `"`+long+`"`),
		"scp 33":                     with(`"task.execute"`, strings.Repeat(`"x",`, 32)+`"x"`),
		"scp comma":                  with(`"task.execute",`, `"task.execute",,`),
		"constraints null":           rootToken(`,"x-asap-constraints":null`),
		"constraints list":           rootToken(`,"x-asap-constraints":[]`),
		"constraint unknown":         rootToken(`,"x-asap-constraints":{"expires_at":"2030-01-01T00:00:00Z"}`),
		"max_tasks null":             rootToken(`,"x-asap-constraints":{"max_tasks":null}`),
		"max_tasks true":             rootToken(`,"x-asap-constraints":{"max_tasks":true}`),
		"max_tasks text":             rootToken(`,"x-asap-constraints":{"max_tasks":"5"}`),
		"max_tasks fraction":         rootToken(`,"x-asap-constraints":{"max_tasks":5.0}`),
		"max_tasks exponent":         rootToken(`,"x-asap-constraints":{"max_tasks":5e1}`),
		"max_tasks negative":         rootToken(`,"x-asap-constraints":{"max_tasks":-1}`),
		"max_tasks minus zero":       rootToken(`,"x-asap-constraints":{"max_tasks":-0}`),
		"max_tasks overflow":         rootToken(`,"x-asap-constraints":{"max_tasks":9223372036854775808}`),
		"max_tasks broken":           rootToken(`,"x-asap-constraints":{"max_tasks":-}`),
		"max_tasks twice":            rootToken(`,"x-asap-constraints":{"max_tasks":1,"max_tasks":1}`),
		"max_cost_usd text":          rootToken(`,"x-asap-constraints":{"max_cost_usd":"1.5"}`),
		"max_cost_usd negative":      rootToken(`,"x-asap-constraints":{"max_cost_usd":-0.01}`),
		"max_cost_usd too much":      rootToken(`,"x-asap-constraints":{"max_cost_usd":9000000000.000000001}`),
		"max_cost_usd broken":        rootToken(`,"x-asap-constraints":{"max_cost_usd":1.}`),
		"par_hash short":             rootToken(`,"par_hash":"abc"`),
		"par_hash not base64":        rootToken(`,"par_hash":"` + strings.Repeat("=", 43) + `"`),
		"par_hash stray bits":        rootToken(`,"par_hash":"` + strings.Repeat("A", 42) + `B"`),
		"par_hash number":            rootToken(`,"par_hash":1`),
		"del_depth text":             rootToken(`,"del_depth":"0"`),
		"del_max_depth negative":     rootToken(`,"del_max_depth":-1`),
		"res empty":                  rootToken(`,"res":[]`),
		"res text":                   rootToken(`,"res":"https://x"`),
		"res space":                  rootToken(`,"res":["https://x y"]`),
		"cnf text":                   rootToken(`,"cnf":"x"`),
		"cnf empty":                  rootToken(`,"cnf":{}`),
		"cnf of another method":      rootToken(`,"cnf":{"x5t#S256":"x"}`),
		"cnf besides another method": rootToken(`,"cnf":{"jkt":"` + encode(make([]byte, 32)) + `","kid":"x"}`),
		"cnf.jkt short":              rootToken(`,"cnf":{"jkt":"abc"}`),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Verify(token, testPolicy(t), ask(agentB, ScopeTaskExecute))
			link := NoLink
			if strings.HasPrefix(name, "trailing sep") {
				link = 1
			}
			wantCode(t, err, asap.CodeDelegationMalformed, link)
		})
	}
}

func TestAccepted(t *testing.T) {
	for name, token := range map[string]string{
		"nothing special":       rootToken(""),
		"typ in lower case":     jws(`{"alg":"Ed25519","typ":"jwt","kid":"k","jwk":{"x":[1]},"x5c":["x"]}`, rootClaims+"}", keyOf(agentA)),
		"white space":           jws(" { \"alg\" : \"EdDSA\" }\n", " "+strings.ReplaceAll(rootClaims, ",", " ,\n\t")+" } ", keyOf(agentA)),
		"escapes":               jws(rootHeader, claims(`urn:asap:agent:a`, `urn\u003aasap:agent:\u0061`, `"scp"`, `"\u0073cp"`, `del_root`, `del\/\u0041`), keyOf(agentA)),
		"nesting of four":       rootToken(`,"x":[[[1,"\b\f\n\r\t\"\\é\ud83d\ude00",true,false,null,-1.5e+10]]]`),
		"many claims":           rootToken(manyClaims(60)),
		"32 scopes":             jws(rootHeader, claims(`"task.execute"`, strings.Repeat(`"x",`, 30)+`"task.execute"`), keyOf(agentA)),
		"366 days":              jws(rootHeader, claims(`1800003600`, `1831622340`), keyOf(agentA)),
		"the largest max_tasks": rootToken(`,"x-asap-constraints":{"max_tasks":9223372036854775807,"max_cost_usd":9e9}`),
		"empty constraints":     rootToken(`,"x-asap-constraints":{}`),
		"the longest URN":       jws(rootHeader, claims(`"urn:asap:agent:b"`, `"urn:asap:agent:`+strings.Repeat("b", 241)+`"`), keyOf(agentA)),
		"depth ceiling above 7": rootToken(`,"del_max_depth":99`),
		"the Python header":     jws(`{"typ":"JWT","alg":"EdDSA"}`, rootClaims+"}", keyOf(agentA)),
	} {
		t.Run(name, func(t *testing.T) {
			chain, err := Parse(token)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Verify(token, testPolicy(t), ask(chain.Actor(), ScopeTaskExecute))
			wantCode(t, err, "", NoLink)
		})
	}
}

func manyClaims(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(`,"c` + strings.Repeat("x", i) + `":0`)
	}
	return b.String()
}

func TestDuplicateAmongManyClaims(t *testing.T) {
	_, err := Parse(rootToken(manyClaims(40) + `,"cxxxxxxxxxxxxxxxxxxxxxxxxxx":0`))
	wantCode(t, err, asap.CodeDelegationMalformed, 0)
	_, err = Parse(rootToken(manyClaims(20) + `,"iss":0`))
	wantCode(t, err, asap.CodeDelegationMalformed, 0)
}

func TestHeaderTexts(t *testing.T) {
	for text, json := range map[string]string{
		rootHeaderText: rootHeader, childHeaderText: childHeader, pythonHeaderText: `{"typ":"JWT","alg":"EdDSA"}`,
	} {
		if got := encode([]byte(json)); got != text {
			t.Errorf("%s: got %s, want %s", json, got, text)
		}
	}
}
