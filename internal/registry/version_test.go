package registry

import (
	"testing"

	"pgregory.net/rapid"

	asap "github.com/asap-protocol/asap-go"
)

// inOrder holds versions from old to new, those on one line equal (PEP 440, and
// the order of the packaging library).
var inOrder = [][]string{
	{"no version", "", "1.0-", "1..0", "1.0.dev1x", "5 6"},
	{"0.9"},
	{"1.0.dev0", "1.0.dev", "1.dev0", "v1.0-DEV"},
	{"1.0.dev456"},
	{"1.0a1.dev1"},
	{"1.0a1", "1.0.alpha1", "1.0-a-1", "1.0_A1", "1.a1"},
	{"1.0a2.dev456"},
	{"1.0a2"},
	{"1.0a2.post1.dev3"},
	{"1.0a2.post1"},
	{"1.0a12"},
	{"1.0b1.dev456", "1.0.beta.1.dev456"},
	{"1.0b2"},
	{"1.0b2.post345", "1.0b2-345"},
	{"1.0rc1", "1.0c1", "1.0pre1", "1.0-preview1"},
	{"1.0rc2"},
	{"1.0", "1", "1.0.0", "v1.0", "  1.0\n", "01.00", "0!1.0"},
	{"1.0+abc.5"},
	{"1.0+abc.7"},
	{"1.0+abc.7.0"},
	{"1.0+5", "1.0+05"},
	{"1.0+5.1", "1.0+5-1"},
	{"1.0.post1.dev2"},
	{"1.0.post1", "1.0-1", "1.0.r1", "1.0rev1"},
	{"1.0.post456"},
	{"1.0.1"},
	{"1.1.dev1"},
	{"1.2"},
	{"1.10"},
	{"2024.1"},
	{"99999999999999999999999"},
	{"100000000000000000000000"},
	{"1!0.1"},
}

func TestCompareVersions(t *testing.T) {
	for i, older := range inOrder {
		for j, newer := range inOrder {
			want := 0
			if i != j {
				want = map[bool]int{true: -1, false: 1}[i < j]
			}
			for _, a := range older {
				for _, b := range newer {
					if got := CompareVersions(a, b); got != want {
						t.Errorf("CompareVersions(%q, %q) = %d, want %d", a, b, got, want)
					}
				}
			}
		}
		for _, v := range older {
			if _, ok := parseVersion(v); ok != asap.ValidVersion(v) {
				t.Errorf("%q: a version here %v, in a manifest %v", v, ok, asap.ValidVersion(v))
			}
		}
	}
}

// What a manifest may say, and nothing else, can be ordered.
func TestVersionsOfManifestsAreOrdered(t *testing.T) {
	text := rapid.StringMatching(`(v|V)?([0-9]{1,2}!)?[0-9]{1,3}(\.[0-9]{1,2}){0,3}([-_.]?(a|b|rc|alpha|pre)[-_.]?[0-9]?)?(-[0-9]|\.?post[0-9]?)?(\.?dev[0-9]?)?(\+[a-z0-9]{1,3}([-_.][a-z0-9]{1,3})?)?[x ]?`)
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := text.Draw(t, "a"), text.Draw(t, "b"), text.Draw(t, "c")
		if _, ok := parseVersion(a); ok != asap.ValidVersion(a) {
			t.Fatalf("%q: %v here, %v in a manifest", a, ok, asap.ValidVersion(a))
		}
		if CompareVersions(a, a) != 0 || CompareVersions(a, b) != -CompareVersions(b, a) {
			t.Fatalf("%q, %q: not antisymmetric", a, b)
		}
		if CompareVersions(a, b) <= 0 && CompareVersions(b, c) <= 0 && CompareVersions(a, c) > 0 {
			t.Fatalf("%q <= %q <= %q, but not %q <= %q", a, b, c, a, c)
		}
	})
}
