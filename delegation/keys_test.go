package delegation

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	asap "github.com/asap-protocol/asap-go"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// smallOrderKeys are all encodings of points whose order divides eight, with
// both signs of x, and those whose y is not reduced.
var smallOrderKeys = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
}

func TestSmallOrderKeysAreRefused(t *testing.T) {
	ring := new(KeyRing)
	for _, text := range smallOrderKeys {
		key := ed25519.PublicKey(unhex(t, text))
		if err := ring.Add(agentA, Key{Public: key}); !errors.Is(err, asap.ErrSmallOrderKey) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// bareKeys is a source that checks nothing.
type bareKeys map[asap.AgentURN][]Key

func (b bareKeys) Keys(agent asap.AgentURN, _ string) []Key { return b[agent] }
func (bareKeys) Epoch(asap.AgentURN) uint64                 { return 0 }

// TestNeutralKeySignsEverything shows why: under the neutral point a signature
// of R = neutral, S = 0 fits every message. Verify refuses the key even if the
// source of keys lets it through.
func TestNeutralKeySignsEverything(t *testing.T) {
	neutral := ed25519.PublicKey(unhex(t, smallOrderKeys[2]))
	signature := append(bytes.Clone(neutral), make([]byte, 32)...)
	text := encode([]byte(rootHeader)) + "." + encode([]byte(rootClaims+"}"))
	if !ed25519.Verify(neutral, []byte(text), signature) {
		t.Fatal("crypto/ed25519 has learnt to refuse the neutral point")
	}
	policy := testPolicy(t)
	policy.Keys = bareKeys{agentA: {{Public: neutral}}}
	_, err := Verify(text+"."+encode(signature), policy, ask(agentB, ScopeTaskExecute))
	wantCode(t, err, asap.CodeDelegationBadSignature, 0)
}

func TestCheckKey(t *testing.T) {
	if err := CheckKey(publicOf(agentA)); err != nil {
		t.Error(err)
	}
	refused := map[string][]byte{
		"31 bytes": make([]byte, 31),
		"nil":      nil,
	}
	for k := byte(0xef); k != 0; k++ { // y from p+2 to 2^255-1
		y := bytes.Repeat([]byte{0xff}, 32)
		y[0], y[31] = k, 0x7f
		refused["y = p+"+string(rune('0'+k-0xed))] = y
	}
	two := make([]byte, 32) // y = 2 is no point of the curve
	two[0] = 2
	refused["no point"] = two
	for name, key := range refused {
		if err := CheckKey(key); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for seed := range byte(40) { // all real keys pass
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32)).Public().(ed25519.PublicKey)
		if err := CheckKey(key); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

// TestSignatureMalleability: S has one representation, R is compared as bytes.
func TestSignatureMalleability(t *testing.T) {
	token := rootToken("")
	dot := strings.LastIndexByte(token, '.')
	var good [64]byte
	if _, ok := decodeBase64(good[:], []byte(token[dot+1:])); !ok {
		t.Fatal("the signature does not decode")
	}
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	plusOrder := func(times int64) []byte {
		le := slices.Clone(good[32:])
		slices.Reverse(le)
		s := new(big.Int).SetBytes(le)
		s.Add(s, new(big.Int).Mul(order, big.NewInt(times)))
		out := s.FillBytes(make([]byte, 32))
		slices.Reverse(out)
		return append(slices.Clone(good[:32]), out...)
	}
	negated := slices.Clone(good[:])
	negated[31] ^= 0x80
	noncanonicalR := append(unhex(t, smallOrderKeys[12]), good[32:]...)
	zeroS := append(slices.Clone(good[:32]), make([]byte, 32)...)
	highBits := slices.Clone(good[:])
	highBits[63] |= 0xe0
	swapped := append(slices.Clone(good[32:]), good[:32]...)
	for name, signature := range map[string][]byte{
		"S + L": plusOrder(1), "S + 2L": plusOrder(2), "S + 7L": plusOrder(7), "R negated": negated, "R not canonical": noncanonicalR,
		"S = 0": zeroS, "high bits of S": highBits, "R and S swapped": swapped, "all zero": make([]byte, 64),
		"all ones": bytes.Repeat([]byte{0xff}, 64), "R only": append(slices.Clone(good[:32]), good[:32]...),
	} {
		_, err := Verify(token[:dot+1]+encode(signature), testPolicy(t), ask(agentB, ScopeTaskExecute))
		if r := AsRefusal(err); r == nil || r.Code != asap.CodeDelegationBadSignature {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeyRing(t *testing.T) {
	ring := new(KeyRing)
	names := func(keyID string) string {
		var out []string
		for _, k := range ring.Keys(agentA, keyID) {
			out = append(out, "<"+k.ID+">")
		}
		return strings.Join(out, "")
	}
	add := func(id string, of asap.AgentURN) {
		t.Helper()
		before := ring.Epoch(agentA)
		if err := ring.Add(agentA, Key{ID: id, Public: publicOf(of)}); err != nil {
			t.Fatal(err)
		}
		if ring.Epoch(agentA) == before {
			t.Error("the epoch did not change")
		}
	}
	if ring.Epoch(agentA) != 0 || ring.Keys(agentA, "") != nil || ring.Withdraw(agentM, "") {
		t.Error("a new ring is not empty")
	}
	add("one", agentB)
	if got := names("two"); got != "" {
		t.Errorf("unknown kid gets %s", got)
	}
	add("", agentA)
	add("two", agentC)
	for id, want := range map[string]string{"": "<><one><two>", "one": "<one>", "two": "<two>", "three": "<>"} {
		if got := names(id); got != want {
			t.Errorf("kid %q gets %s, want %s", id, got, want)
		}
	}
	add("one", agentD)
	if keys := ring.Keys(agentA, "one"); len(keys) != 1 || !keys[0].Public.Equal(publicOf(agentD)) {
		t.Error("the key was not replaced")
	}
	add("", agentE)
	if got := names(""); got != "<><two><one>" {
		t.Errorf("all keys: %s", got)
	}
	before := ring.Epoch(agentA)
	if !ring.Withdraw(agentA, "") || ring.Epoch(agentA) == before || names("three") != "" {
		t.Error("the key without id is still there")
	}
}

func TestVerifyWithSeveralKeys(t *testing.T) {
	policy := testPolicy(t)
	ring := policy.Keys.(*KeyRing)
	if err := ring.Add(agentA, Key{ID: "new", Public: publicOf(agentM)}); err != nil {
		t.Fatal(err)
	}
	old, next := terms(agentA, agentB, "del_old"), terms(agentA, agentB, "del_new")
	next.KeyID = "new"
	oldToken := mustIssue(t, old)
	newToken, err := Issue(next, keyOf(agentM))
	if err != nil {
		t.Fatal(err)
	}
	unnamed, err := Issue(old, keyOf(agentM))
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := Issue(next, keyOf(agentA))
	if err != nil {
		t.Fatal(err)
	}
	verifier := NewVerifier(*policy)
	check := func(token string, code asap.Code) {
		t.Helper()
		_, err := verifier.Verify(token, ask(agentB, ScopeTaskExecute))
		wantCode(t, err, code, NoLink)
	}
	check(oldToken, "")
	check(newToken, "")
	check(unnamed, "")
	check(wrong, asap.CodeDelegationBadSignature)
	ring.Withdraw(agentA, "") // the old key is compromised
	check(oldToken, asap.CodeDelegationBadSignature)
	check(newToken, "")
	ring.Withdraw(agentA, "new")
	check(newToken, asap.CodeDelegationUnknownIssuer)
}

func TestParseKeyFile(t *testing.T) {
	standard := `"iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w="`
	entry := func(agent, key string) string { return `{"keys":[{"agent":"` + agent + `","public_key":` + key + `}]}` }
	ring, err := ParseKeyFile([]byte(`{"keys":[{"agent":"urn:asap:agent:a","public_key":` + standard + `},
		{"agent":"urn:asap:agent:b","public_key":"gTl3Dqh9F19Wo1Rmw0x-zMuNipG07jeiXfYPW4_Js5Q","kid":"k"}],"note":"more"}`))
	if err != nil {
		t.Fatal(err)
	}
	if keys := ring.Keys(agentA, ""); len(keys) != 1 || !keys[0].Public.Equal(publicOf(agentA)) {
		t.Errorf("a: %v", keys)
	}
	if keys := ring.Keys(agentB, "k"); len(keys) != 1 || !keys[0].Public.Equal(publicOf(agentB)) {
		t.Errorf("b: %v", keys)
	}
	for name, text := range map[string]string{
		"not JSON": "x", "no keys": `{"keys":[]}`, "trailing": entry("urn:asap:agent:a", standard) + "x",
		"twice": `{"keys":[],"keys":[]}`, "no URN": entry("a", standard), "short key": entry("urn:asap:agent:a", `"AAAA"`),
		"small order": entry("urn:asap:agent:a", `"`+strings.Repeat("A", 43)+`"`), "no base64": entry("urn:asap:agent:a", `"!"`),
		"no point": entry("urn:asap:agent:a", `"Ag`+strings.Repeat("A", 41)+`"`),
	} {
		if _, err := ParseKeyFile([]byte(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRevocations(t *testing.T) {
	set, err := ParseRevocations(strings.NewReader("urn:asap:agent:a|del_1\n\n  urn:asap:agent:b|x|y \r\n"))
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]bool{"del_1": true, "del_2": false, "x|y": false} {
		if got, err := set.Revoked(agentA, id); got != want || err != nil {
			t.Errorf("a|%s: %v, %v", id, got, err)
		}
	}
	if got, _ := set.Revoked(agentB, "x|y"); !got || set.Len() != 2 {
		t.Error("b|x|y is not in the set")
	}
	if set.Add(agentA, "del_1") || !set.Add(agentA, "del_3") {
		t.Error("Add does not tell what is new")
	}
	set.Forget(agentA, "del_1")
	if got, _ := set.Revoked(agentA, "del_1"); got {
		t.Error("forgotten, but there")
	}
	for _, text := range []string{"del_1\n", "urn:asap:agent:a|\n", "a|b\n", strings.Repeat("x", 70_000)} {
		if _, err := ParseRevocations(strings.NewReader(text)); err == nil {
			t.Errorf("%.20q: no error", text)
		}
	}
}
