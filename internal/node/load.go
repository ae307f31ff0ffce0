package node

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Load returns the defaults overlaid with the file at path (none if path is
// empty) and with the environment, as environ lists it. It does not validate:
// flags come on top first. Errors wrap ErrConfig and name the file, the line
// and the key.
func Load(path string, environ []string) (Config, error) {
	c := Defaults()
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return c, fmt.Errorf("%w: %w", ErrConfig, err)
		}
		if err := parseYAML(text, &c); err != nil {
			return c, fmt.Errorf("%w: %s: %w", ErrConfig, path, err)
		}
	}
	if err := applyEnvironment(&c, environ); err != nil {
		return c, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return c, nil
}

var unknownField = regexp.MustCompile(`line (\d+): field (\S+) not found in type \S+`)

// parseYAML reads one strict YAML document into c.
func parseYAML(text []byte, c *Config) error {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	err := d.Decode(c)
	if errors.Is(err, io.EOF) { // an empty file changes nothing
		return nil
	}
	if err == nil {
		if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
			return errors.New("more than one YAML document")
		}
		return nil
	}
	var typed *yaml.TypeError
	if !errors.As(err, &typed) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	for i, e := range typed.Errors {
		typed.Errors[i] = unknownField.ReplaceAllString(e, "line $1: unknown key $2")
	}
	return errors.New(strings.Join(typed.Errors, "; "))
}

// Setting is one scalar of the configuration: its key in the file, its
// environment variable, its value and its sentence in the reference.
type Setting struct {
	Key, Env, Value, Doc string
	Reload               bool

	field reflect.Value
}

// Settings lists the scalar settings of c in the order of the reference.
// Lists (agents, prices) can be set in the file only and are not in it.
func (c *Config) Settings() []Setting {
	var out []Setting
	var walk func(v reflect.Value, prefix string)
	walk = func(v reflect.Value, prefix string) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			key := prefix + f.Tag.Get("yaml")
			switch field := v.Field(i); {
			case field.Kind() == reflect.Slice:
			case field.Kind() == reflect.Struct:
				walk(field, key+".")
			default:
				out = append(out, Setting{
					Key: key, Env: "ASAP_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_")),
					Value: settingText(field), Doc: f.Tag.Get("doc"), Reload: f.Tag.Get("reload") == "yes", field: field,
				})
			}
		}
	}
	walk(reflect.ValueOf(c).Elem(), "")
	return out
}

func settingText(v reflect.Value) string {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		b, err := m.MarshalText()
		if err != nil {
			return ""
		}
		return string(b)
	}
	return fmt.Sprint(v.Interface())
}

// Set gives the setting a value from text.
func (s Setting) Set(text string) error {
	if u, ok := s.field.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch s.field.Kind() {
	case reflect.String:
		s.field.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		s.field.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		s.field.SetInt(n)
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || f != f {
			return fmt.Errorf("%q is not a number", text)
		}
		s.field.SetFloat(f)
	default:
		return fmt.Errorf("cannot be set from text")
	}
	return nil
}

// Environment variables of the commands and of the Python release, which are not
// settings of the node.
var otherVariables = map[string]bool{"ASAP_NODE": true, "ASAP_CONFIG": true, "ASAP_OPERATOR_TOKEN": true, "ASAP_AUTH_CUSTOM_CLAIM": true, "ASAP_AUTH_SUBJECT_MAP": true}

// applyEnvironment sets what ASAP_ variables name. A variable that is no setting
// is an error if it is close to being one, that is if it starts with a section's
// name; others belong to somebody else (the Python release reads ASAP_ too).
func applyEnvironment(c *Config, environ []string) error {
	settings := map[string]Setting{}
	sections := map[string]bool{}
	for _, s := range c.Settings() {
		settings[s.Env] = s
		if section, _, nested := strings.Cut(s.Key, "."); nested {
			sections["ASAP_"+strings.ToUpper(section)+"_"] = true
		}
	}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "ASAP_") || otherVariables[name] {
			continue
		}
		s, known := settings[name]
		if !known {
			for section := range sections {
				// ASAP_LOG_LEVEL is a setting, ASAP_LOG_LEVELS a mistake worth saying.
				if strings.HasPrefix(name, section) {
					return fmt.Errorf("environment variable %s: unknown key", name)
				}
			}
			continue
		}
		if err := s.Set(value); err != nil {
			return fmt.Errorf("environment variable %s: %w", name, err)
		}
	}
	return nil
}

// Override sets what KEY=VALUE pairs name, as the flags of a command give them.
func (c *Config) Override(pairs []string) error {
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("%w: %q is not KEY=VALUE", ErrConfig, pair)
		}
		i := slices.IndexFunc(c.Settings(), func(s Setting) bool { return s.Key == key })
		if i < 0 {
			return fmt.Errorf("%w: unknown key %s", ErrConfig, key)
		}
		if err := c.Settings()[i].Set(value); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrConfig, key, err)
		}
	}
	return nil
}

// YAML writes the configuration as a file that reads back to the same, with
// the sentence of the reference above each setting. There are no secrets in it.
func (c *Config) YAML() ([]byte, error) {
	var doc yaml.Node
	if err := doc.Encode(c); err != nil {
		return nil, err
	}
	docs := map[string]string{}
	for _, s := range c.Settings() {
		docs[s.Key] = s.Doc
	}
	var comment func(n *yaml.Node, prefix string)
	comment = func(n *yaml.Node, prefix string) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			key.HeadComment = docs[prefix+key.Value]
			if value.Kind == yaml.MappingNode {
				comment(value, prefix+key.Value+".")
			}
		}
	}
	comment(&doc, "")
	return yaml.Marshal(&doc)
}
