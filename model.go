package asap

import (
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// A model describes one JSON object type of the protocol. The parser and the
// JSON Schemas both read it, so they cannot differ. Models are never changed.
type model struct {
	title  string
	doc    string
	fields []field
}

// maxFields is the size of the widest model.
const maxFields = 11

type fieldKind uint8

const (
	kindString fieldKind = iota
	kindURN
	kindInt
	kindBool
	kindTime
	kindObject  // free-form
	kindStrings // list of strings
	kindEnum
	kindLiteral // like an enum, without a type of its own
	kindModel
	kindModels // list of a model
)

// A field is one member. One that is neither required nor nullable has a
// default, def, and may be left out but not be null.
type field struct {
	name     string
	kind     fieldKind
	required bool
	nullable bool
	def      string // the default as JSON text
	enum     *enumeration
	ref      *model
	min, max *int64
	minItems int
	pattern  string
	doc      string
}

type enumeration struct {
	title  string
	doc    string
	values []string
}

// A path is the way from the root to the value being read; nil is the root.
type path struct {
	parent *path
	name   string
}

func (p *path) loc(name string) []string {
	var loc []string
	if name != "" {
		loc = append(loc, name)
	}
	for ; p != nil; p = p.parent {
		loc = append(loc, p.name)
	}
	slices.Reverse(loc)
	return loc
}

// maxIssues bounds how much of a hostile document is reported.
const maxIssues = 100

// issues gathers what is wrong with one document.
type issues struct{ list []Issue }

func (s *issues) add(at *path, name, typ, msg string) {
	if len(s.list) >= maxIssues {
		return
	}
	s.list = append(s.list, Issue{Type: typ, Loc: at.loc(name), Msg: msg})
}

func (s *issues) err() error {
	if len(s.list) == 0 {
		return nil
	}
	return &ValidationError{Issues: s.list}
}

// An object is a JSON object of a model while it is read: the raw members by
// their place in the model's table. Its typed accessors record what is wrong
// and return a zero value then.
type object struct {
	model  *model
	raw    [maxFields]jsontext.Value
	extra  []string
	at     *path
	issues *issues
}

// open splits the checked value v into o's members; false means v is no object.
func (o *object) open(m *model, v jsontext.Value, at *path, s *issues) bool {
	o.model, o.at, o.issues = m, at, s
	v = trimValue(v)
	if kindOf(v) != '{' {
		s.add(at, "", "model_type", "Input should be a valid dictionary or instance of "+m.title)
		return false
	}
	for w := walkObject(v); w.next(); {
		i := m.index(w.name)
		if i < 0 {
			if len(o.extra) < maxIssues {
				o.extra = append(o.extra, string(w.name))
			}
			continue
		}
		o.raw[i] = w.value
	}
	return true
}

func (m *model) index(name []byte) int {
	for i := range m.fields {
		if m.fields[i].name == string(name) {
			return i
		}
	}
	return -1
}

// finish reports the unknown members. A member's name is the sender's text; it
// is cut to 64 bytes so that an error stays small.
func (o *object) finish() {
	for _, name := range o.extra {
		name = cut(name, 64)
		o.issues.add(o.at, name, "extra_forbidden", "Extra inputs are not permitted")
	}
}

// cut returns the first most bytes of a text at most, and no part of a character.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}

func (o *object) fail(i int, typ, msg string) { o.issues.add(o.at, o.model.fields[i].name, typ, msg) }

// value returns the raw member, or nil where it is absent, or null and nullable.
// A missing required member is recorded.
func (o *object) value(i int) jsontext.Value {
	v, f := o.raw[i], &o.model.fields[i]
	if v == nil {
		if f.required {
			o.fail(i, "missing", "Field required")
		}
		return nil
	}
	if f.nullable && kindOf(v) == 'n' {
		return nil
	}
	return v
}

func (o *object) text(i int, v jsontext.Value) (string, bool) {
	if kindOf(v) != '"' {
		o.fail(i, "string_type", "Input should be a valid string")
		return "", false
	}
	return string(unquote(v)), true
}

// str reads a required string, or one with a default.
func (o *object) str(i int) string {
	v := o.value(i)
	if v == nil {
		if def := o.model.fields[i].def; def != "" {
			return string(unquote([]byte(def)))
		}
		return ""
	}
	s, _ := o.text(i, v)
	return s
}

func (o *object) optStr(i int) *string {
	v := o.value(i)
	if v == nil {
		return nil
	}
	if s, ok := o.text(i, v); ok {
		return &s
	}
	return nil
}

func (o *object) urn(i int) AgentURN {
	v := o.value(i)
	if v == nil {
		return ""
	}
	s, ok := o.text(i, v)
	if !ok {
		return ""
	}
	u, err := ParseAgentURN(s)
	if err != nil {
		o.fail(i, "value_error", "Value error, "+err.Error())
	}
	return u
}

// obj reads a free-form object, required or not; nil if there is none.
func (o *object) obj(i int) jsontext.Value {
	v := o.value(i)
	if v == nil {
		return nil
	}
	if kindOf(v) != '{' {
		o.fail(i, "dict_type", "Input should be a valid dictionary")
		return nil
	}
	return v
}

func (o *object) enum(i int) string {
	v := o.value(i)
	if v == nil {
		if def := o.model.fields[i].def; def != "" {
			return string(unquote([]byte(def)))
		}
		return ""
	}
	f := &o.model.fields[i]
	if kindOf(v) == '"' {
		text := unquote(v)
		for _, value := range f.enum.values {
			if value == string(text) {
				return value
			}
		}
	}
	typ := "enum"
	if f.kind == kindLiteral {
		typ = "literal_error"
	}
	o.fail(i, typ, "Input should be "+choices(f.enum.values))
	return ""
}

// choices lists values as 'a', 'b' or 'c'.
func choices(values []string) string {
	var b []byte
	for i, v := range values {
		switch {
		case i == 0:
		case i == len(values)-1:
			b = append(b, " or "...)
		default:
			b = append(b, ", "...)
		}
		b = append(b, '\'')
		b = append(b, v...)
		b = append(b, '\'')
	}
	return string(b)
}

func (o *object) boolean(i int) bool {
	v := o.value(i)
	if v == nil {
		return o.model.fields[i].def == "true"
	}
	b, typ := laxBool(v)
	switch typ {
	case "":
	case issueBoolParsing:
		o.fail(i, typ, "Input should be a valid boolean, unable to interpret input")
	default:
		o.fail(i, typ, "Input should be a valid boolean")
	}
	return b
}

// integer reads an integer within the field's bounds; nil if there is none and
// no default, or if it is wrong.
func (o *object) integer(i int) *int64 {
	v, f := o.value(i), &o.model.fields[i]
	if v == nil {
		if f.def == "" {
			return nil
		}
		v = jsontext.Value(f.def)
	}
	n, typ := laxInt(v)
	switch {
	case typ != "":
		o.fail(i, typ, intMessage(typ))
	case f.min != nil && n < *f.min:
		o.fail(i, "greater_than_equal", "Input should be greater than or equal to "+strconv.FormatInt(*f.min, 10))
	case f.max != nil && n > *f.max:
		o.fail(i, "less_than_equal", "Input should be less than or equal to "+strconv.FormatInt(*f.max, 10))
	default:
		return &n
	}
	return nil
}

// list reads a list and hands over its elements one by one.
func (o *object) list(i int, element func(n int, v jsontext.Value)) {
	v := o.value(i)
	if v == nil {
		return
	}
	if kindOf(v) != '[' {
		o.fail(i, "list_type", "Input should be a valid list")
		return
	}
	n := 0
	for w := walkArray(v); w.next(); n++ {
		element(n, w.value)
	}
	if least := o.model.fields[i].minItems; n < least {
		o.fail(i, "too_short", "List should have at least "+strconv.Itoa(least)+" item after validation, not "+strconv.Itoa(n))
	}
}

// strs reads a list of strings; never nil unless it is wrong or absent without
// being required.
func (o *object) strs(i int) []string {
	list := []string{}
	o.list(i, func(n int, v jsontext.Value) {
		if kindOf(v) != '"' {
			o.issues.add(&path{o.at, o.model.fields[i].name}, strconv.Itoa(n), "string_type", "Input should be a valid string")
			return
		}
		list = append(list, string(unquote(v)))
	})
	return list
}

// read parses one document of a model: it checks b, opens it, has build take
// the members in the table's order, then reports unknown ones.
func read[T any](m *model, b []byte, build func(o *object) T) (T, error) {
	var zero T
	if err := checkJSON(b); err != nil {
		return zero, err
	}
	return readChecked(m, b, build)
}

func readChecked[T any](m *model, b []byte, build func(o *object) T) (T, error) {
	var zero T
	var s issues
	var o object
	if !o.open(m, b, nil, &s) {
		return zero, s.err()
	}
	v := build(&o)
	o.finish()
	if len(s.list) > 0 {
		return zero, s.err()
	}
	return v, nil
}

// nested parses a member that is itself a model; the zero T if it is absent or
// wrong.
func nested[T any](o *object, i int, build func(o *object) T) (T, bool) {
	var zero T
	v := o.value(i)
	if v == nil {
		return zero, false
	}
	return element(o, &path{o.at, o.model.fields[i].name}, o.model.fields[i].ref, v, build)
}

func element[T any](o *object, at *path, m *model, v jsontext.Value, build func(o *object) T) (T, bool) {
	var zero T
	var child object
	if !child.open(m, v, at, o.issues) {
		return zero, false
	}
	value := build(&child)
	child.finish()
	return value, true
}

// nestedList parses a member that is a list of a model.
func nestedList[T any](o *object, i int, build func(o *object) T) []T {
	list := []T{}
	o.list(i, func(n int, v jsontext.Value) {
		at := &path{&path{o.at, o.model.fields[i].name}, strconv.Itoa(n)}
		if value, ok := element(o, at, o.model.fields[i].ref, v, build); ok {
			list = append(list, value)
		}
	})
	return list
}
