package registry

import (
	"cmp"
	"regexp"
	"strings"
	"unicode"
)

// pep440 takes a version of PEP 440, appendix B, apart; the text is lower-cased
// and has no blanks around it.
var pep440 = regexp.MustCompile(`^v?(?:([0-9]+)!)?([0-9]+(?:\.[0-9]+)*)` +
	`(?:[-_.]?(alpha|a|beta|b|preview|pre|c|rc)[-_.]?([0-9]*))?` +
	`(?:-([0-9]+)|([-_.]?(?:post|rev|r)[-_.]?)([0-9]*))?` +
	`(?:([-_.]?dev[-_.]?)([0-9]*))?` +
	`(?:\+([a-z0-9]+(?:[-_.][a-z0-9]+)*))?$`)

// CompareVersions orders two versions as PEP 440 does: 1.0.dev1 < 1.0a1 < 1.0b2
// < 1.0rc1 < 1.0 = 1.0.0 < 1.0+local < 1.0.post1 < 1!0.1. Numbers may have any
// length. A text that is no version is older than all that are.
func CompareVersions(a, b string) int {
	x, okA := parseVersion(a)
	y, okB := parseVersion(b)
	if !okA || !okB {
		return cmp.Compare(rankOf(okA), rankOf(okB))
	}
	return cmp.Or(
		compareNumbers(x.epoch, y.epoch),
		compareReleases(x.release, y.release),
		cmp.Compare(x.stage, y.stage),
		compareNumbers(x.pre, y.pre),
		cmp.Compare(rankOf(x.isPost), rankOf(y.isPost)),
		compareNumbers(x.post, y.post),
		cmp.Compare(rankOf(!x.isDev), rankOf(!y.isDev)),
		compareNumbers(x.dev, y.dev),
		compareLocals(x.local, y.local),
	)
}

// The order of what precedes a release and of the release itself.
const (
	stageDev = iota // a development release of no pre-release
	stageAlpha
	stageBeta
	stageCandidate
	stageFinal
)

// version is a version, taken apart. Numbers are digits.
type version struct {
	epoch          string
	release        []string
	stage          int
	pre, post, dev string
	isPost, isDev  bool
	local          []string
}

func parseVersion(text string) (version, bool) {
	blank := func(r rune) bool { return unicode.IsSpace(r) || (r >= 0x1c && r <= 0x1f) }
	m := pep440.FindStringSubmatch(strings.ToLower(strings.TrimFunc(text, blank)))
	if m == nil {
		return version{}, false
	}
	v := version{epoch: m[1], release: strings.Split(m[2], "."), stage: stageFinal, pre: m[4],
		post: m[5] + m[7], dev: m[9], isPost: m[5] != "" || m[6] != "", isDev: m[8] != ""}
	switch m[3] {
	case "a", "alpha":
		v.stage = stageAlpha
	case "b", "beta":
		v.stage = stageBeta
	case "":
		if v.isDev && !v.isPost {
			v.stage = stageDev
		}
	default:
		v.stage = stageCandidate
	}
	if m[10] != "" {
		v.local = strings.FieldsFunc(m[10], func(r rune) bool { return r == '.' || r == '-' || r == '_' })
	}
	return v, true
}

func rankOf(b bool) int {
	if b {
		return 1
	}
	return 0
}

// compareNumbers compares digits by value; no digits are zero.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

// compareReleases compares number by number; missing ones are zero.
func compareReleases(a, b []string) int {
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if c := compareNumbers(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// compareLocals compares local labels part by part: numbers are newer than
// words, and the longer of two that begin alike is the newer.
func compareLocals(a, b []string) int {
	for i := range min(len(a), len(b)) {
		x, y := a[i], b[i]
		nx, ny := digits(x), digits(y)
		c := strings.Compare(x, y)
		switch {
		case nx && ny:
			c = compareNumbers(x, y)
		case nx != ny:
			c = cmp.Compare(rankOf(nx), rankOf(ny))
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }
