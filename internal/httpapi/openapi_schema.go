package httpapi

import (
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/asap-protocol/asap-go/internal/sla"
)

// Patterns of texts. They say what is accepted as closely as a pattern can.
const (
	urnPattern        = `^urn:asap:agent:[a-z0-9-]+(:[a-z0-9-]+)?$`
	percentagePattern = `^(100|[0-9]{1,2}(\.[0-9]{1,17})?)%?$`
	amountPattern     = `^[0-9]{1,9}(\.[0-9]{1,9})?$`
	groupByPattern    = `^(agent|consumer|hour|day|week|month|skill|outcome|delegation)(,(agent|consumer|skill|outcome|delegation))*$`
	unixPattern       = `^[0-9]{1,11}(\.[0-9]{1,6})?$`
	revokedPattern    = `^urn:asap:agent:[a-z0-9-]+\|[A-Za-z0-9_-]+$`
)

// schema describes the values a parameter takes. A text in the query is never
// empty, as query.text refuses those; formats that JSON Schema does not know tell
// people and tools what a text is.
func (p *parameter) schema() *huma.Schema {
	s := &huma.Schema{Type: p.kind, Enum: p.enum, Pattern: p.pattern}
	switch p.kind {
	case "date-time":
		unix := &huma.Schema{Type: huma.TypeString, Pattern: unixPattern, Description: "seconds since 1970, or milliseconds beyond 20000000000"}
		return &huma.Schema{AnyOf: []*huma.Schema{{Type: huma.TypeString, Format: "date-time"}, unix}}
	case "cursor", "time-zone":
		s.Type, s.Format = huma.TypeString, p.kind
	case huma.TypeInteger:
		s.Minimum = new(float64(p.least))
		if p.most > 0 {
			s.Maximum = new(float64(p.most))
		}
		return s
	}
	if s.Type == huma.TypeString && p.enum == nil && p.in != "header" {
		s.MinLength = new(max(p.least, 1))
	}
	if s.Type == huma.TypeString && p.most > 0 {
		s.MaxLength = &p.most
	}
	return s
}

// refusals are the statuses of the problems that a route can answer with, in
// order. Every route can refuse bad credentials and parameters, be limited, and
// fail.
func (r *route) refusals() []int {
	list := []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable}
	if r.access != anyone || r.method != http.MethodGet {
		list = append(list, http.StatusForbidden)
	}
	if strings.Contains(r.path, "{") || strings.HasPrefix(r.path, "/audit") {
		list = append(list, http.StatusNotFound)
	}
	if r.body != nil {
		list = append(list, http.StatusNotFound, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// refine corrects what reflection cannot know of the schemas: lists are
// not null, unless a tag says so; a member that points to an object is null unless
// it is left out; seconds have a fraction.
func refine(schemas huma.Registry) {
	for name, schema := range schemas.Map() {
		t := schemas.TypeFromRef("#/components/schemas/" + name)
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			continue
		}
		for _, field := range reflect.VisibleFields(t) {
			member, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			property := schema.Properties[member]
			switch {
			case property == nil:
			case field.Type == reflect.TypeFor[sla.Seconds]():
				property.Type, property.Format = huma.TypeNumber, ""
			case property.Type == huma.TypeArray:
				property.Nullable = field.Tag.Get("nullable") == "true"
			case field.Type.Kind() == reflect.Pointer && !strings.Contains(options, "omit") && property.Ref != "":
				schema.Properties[member] = &huma.Schema{Description: property.Description,
					AnyOf: []*huma.Schema{{Ref: property.Ref}, {Type: "null"}}}
			case field.Type.Kind() == reflect.Pointer && !strings.Contains(options, "omit") && property.Type == huma.TypeObject:
				property.Nullable = true
			}
		}
	}
}
