package asap

import (
	"encoding/base64"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// A Part is a piece of content (core.md 8): *TextPart, *DataPart, *FilePart,
// *ResourcePart or *TemplatePart. No other type implements it.
type Part interface {
	// PartType is the member "type".
	PartType() string
	// AppendJSON appends the part with every member, null for what is absent.
	AppendJSON(dst []byte) []byte
	MarshalJSON() ([]byte, error)
	isPart()
}

// TextPart is plain text.
type TextPart struct{ Content string }

// DataPart is a JSON object, optionally with the address of its schema.
type DataPart struct {
	Data      jsontext.Value
	SchemaURI *string
}

// FilePart is a file: by address, and optionally with its content in base64.
type FilePart struct {
	// URI must not hold ".." and must not be a file:// address.
	URI string
	// MimeType is type/subtype without parameters.
	MimeType string
	// InlineData is standard base64 with padding, or nil.
	InlineData *string
}

// ResourcePart points to an MCP resource.
type ResourcePart struct{ ResourceURI string }

// TemplatePart is a text with placeholders and their values.
type TemplatePart struct {
	Template  string
	Variables jsontext.Value
}

func (*TextPart) isPart()     {}
func (*DataPart) isPart()     {}
func (*FilePart) isPart()     {}
func (*ResourcePart) isPart() {}
func (*TemplatePart) isPart() {}

// PartType is "text".
func (*TextPart) PartType() string { return "text" }

// PartType is "data".
func (*DataPart) PartType() string { return "data" }

// PartType is "file".
func (*FilePart) PartType() string { return "file" }

// PartType is "resource".
func (*ResourcePart) PartType() string { return "resource" }

// PartType is "template".
func (*TemplatePart) PartType() string { return "template" }

// ParsePart reads a part; the member "type" decides which. The error is a
// *ValidationError whose paths begin with the type, as v1.3.0's do.
func ParsePart(v jsontext.Value) (Part, error) {
	if err := checkJSON(v); err != nil {
		return nil, err
	}
	var s issues
	p := readPart(v, nil, &s)
	if len(s.list) > 0 {
		return nil, s.err()
	}
	return p, nil
}

func readPart(v jsontext.Value, at *path, s *issues) Part {
	v = trimValue(v)
	if kindOf(v) != '{' {
		s.add(at, "", "model_attributes_type", "Input should be a valid dictionary or object to extract fields from")
		return nil
	}
	var tag jsontext.Value
	for w := walkObject(v); w.next(); {
		if string(w.name) == "type" {
			tag = w.value
		}
	}
	if tag == nil {
		s.add(at, "", "union_tag_not_found", "Unable to extract tag using discriminator 'type'")
		return nil
	}
	if kindOf(tag) == '"' {
		parent := object{at: at, issues: s}
		name := string(unquote(tag))
		switch below := (&path{at, name}); name {
		case "text":
			return member(element(&parent, below, &textPartModel, v, buildTextPart))
		case "data":
			return member(element(&parent, below, &dataPartModel, v, buildDataPart))
		case "file":
			return member(element(&parent, below, &filePartModel, v, buildFilePart))
		case "resource":
			return member(element(&parent, below, &resourcePartModel, v, buildResourcePart))
		case "template":
			return member(element(&parent, below, &templatePartModel, v, buildTemplatePart))
		}
	}
	s.add(at, "", "union_tag_invalid", "Input tag found using 'type' does not match any of the expected tags: 'text', 'data', 'file', 'resource', 'template'")
	return nil
}

func member[P Part](p P, ok bool) Part {
	if !ok {
		return nil
	}
	return p
}

func buildTextPart(o *object) *TextPart {
	o.enum(0)
	return &TextPart{Content: o.str(1)}
}

func buildDataPart(o *object) *DataPart {
	o.enum(0)
	return &DataPart{Data: o.obj(1), SchemaURI: o.optStr(2)}
}

func buildFilePart(o *object) *FilePart {
	o.enum(0)
	p := &FilePart{URI: o.fileURI(1), MimeType: o.mimeType(2)}
	p.InlineData = o.optStr(3)
	if p.InlineData != nil && !isBase64(*p.InlineData) {
		o.fail(3, "value_error", "Value error, inline_data must be valid base64")
	}
	return p
}

func buildResourcePart(o *object) *ResourcePart {
	o.enum(0)
	return &ResourcePart{ResourceURI: o.str(1)}
}

func buildTemplatePart(o *object) *TemplatePart {
	o.enum(0)
	return &TemplatePart{Template: o.str(1), Variables: o.obj(2)}
}

func (o *object) fileURI(i int) string {
	uri := o.str(i)
	switch {
	case strings.Contains(uri, ".."):
		o.fail(i, "value_error", "Value error, URI must not contain path traversal (..)")
	case strings.HasPrefix(lowerASCII(trimBlanks(uri)), "file://"):
		o.fail(i, "value_error", "Value error, file:// URIs are not allowed for security (path traversal risk)")
	}
	return uri
}

func (o *object) mimeType(i int) string {
	before := len(o.issues.list)
	mime := o.str(i)
	if len(o.issues.list) > before {
		return mime
	}
	kind, subtype, ok := strings.Cut(lowerASCII(mime), "/")
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789-"
	if !ok || kind == "" || subtype == "" || strings.Trim(kind, letters) != "" || strings.Trim(subtype, letters+".+") != "" {
		o.fail(i, "value_error", "Value error, Invalid MIME type format")
	}
	return mime
}

// isBase64 reports whether s is standard base64 with padding and nothing else.
func isBase64(s string) bool {
	if strings.ContainsAny(s, "\r\n") {
		return false
	}
	_, err := base64.StdEncoding.DecodeString(s)
	return err == nil
}

// AppendJSON appends the part.
func (p *TextPart) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"type":"text","content":`...)
	dst = appendString(dst, p.Content)
	return append(dst, '}')
}

// AppendJSON appends the part.
func (p *DataPart) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"type":"data","data":`...)
	dst = appendObject(dst, p.Data)
	dst = append(dst, `,"schema_uri":`...)
	dst = appendOptString(dst, p.SchemaURI)
	return append(dst, '}')
}

// AppendJSON appends the part.
func (p *FilePart) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"type":"file","uri":`...)
	dst = appendString(dst, p.URI)
	dst = append(dst, `,"mime_type":`...)
	dst = appendString(dst, p.MimeType)
	dst = append(dst, `,"inline_data":`...)
	dst = appendOptString(dst, p.InlineData)
	return append(dst, '}')
}

// AppendJSON appends the part.
func (p *ResourcePart) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"type":"resource","resource_uri":`...)
	dst = appendString(dst, p.ResourceURI)
	return append(dst, '}')
}

// AppendJSON appends the part.
func (p *TemplatePart) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"type":"template","template":`...)
	dst = appendString(dst, p.Template)
	dst = append(dst, `,"variables":`...)
	dst = appendObject(dst, p.Variables)
	return append(dst, '}')
}

// MarshalJSON is AppendJSON for json.Marshal.
func (p *TextPart) MarshalJSON() ([]byte, error) { return p.AppendJSON(nil), nil }

// MarshalJSON is AppendJSON for json.Marshal.
func (p *DataPart) MarshalJSON() ([]byte, error) { return p.AppendJSON(nil), nil }

// MarshalJSON is AppendJSON for json.Marshal.
func (p *FilePart) MarshalJSON() ([]byte, error) { return p.AppendJSON(nil), nil }

// MarshalJSON is AppendJSON for json.Marshal.
func (p *ResourcePart) MarshalJSON() ([]byte, error) { return p.AppendJSON(nil), nil }

// MarshalJSON is AppendJSON for json.Marshal.
func (p *TemplatePart) MarshalJSON() ([]byte, error) { return p.AppendJSON(nil), nil }
