package node

import (
	"fmt"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"
)

// PriceConfig is the price list of one agent in asap.yaml: the members of
// [metering.ParsePriceList] and agent, a URN. Amounts are decimal US dollars,
// taken digit by digit whether quoted or not.
type PriceConfig struct {
	Agent string
	List  jsontext.Value // the other members, as JSON
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (p *PriceConfig) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: a price list is a mapping", n.Line)
	}
	rest := *n
	rest.Content = nil
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "agent" {
			p.Agent = n.Content[i+1].Value
		} else {
			rest.Content = append(rest.Content, n.Content[i], n.Content[i+1])
		}
	}
	list, err := appendYAML(nil, &rest)
	p.List = list
	return err
}

// appendYAML writes a YAML value as JSON, every scalar as a string with the
// very characters of the file, so that no number is rounded on the way.
func appendYAML(dst []byte, n *yaml.Node) ([]byte, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		return jsontext.AppendQuote(dst, n.Value)
	case yaml.MappingNode:
		dst = append(dst, '{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			if i > 0 {
				dst = append(dst, ',')
			}
			var err error
			if dst, err = jsontext.AppendQuote(dst, n.Content[i].Value); err != nil {
				return nil, fmt.Errorf("line %d: %w", n.Line, err)
			}
			if dst, err = appendYAML(append(dst, ':'), n.Content[i+1]); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	}
	return nil, fmt.Errorf("line %d: a price list holds names and amounts only", n.Line)
}

// MarshalYAML implements yaml.Marshaler.
func (p PriceConfig) MarshalYAML() (any, error) {
	out := map[string]any{}
	if err := json.Unmarshal(p.List, &out); err != nil {
		return nil, err
	}
	out["agent"] = p.Agent
	return out, nil
}

// priceBook turns the configured price lists into the one the ledger prices by.
func (c *Config) priceBook() (*metering.PriceBook, error) {
	lists := make([]*metering.PriceList, len(c.Metering.Prices))
	for i, p := range c.Metering.Prices {
		agent, err := asap.ParseAgentURN(p.Agent)
		if err != nil {
			return nil, fmt.Errorf("%w: metering.prices[%d].agent: %w", ErrConfig, i, err)
		}
		if lists[i], err = metering.ParsePriceList(agent, p.List); err != nil {
			return nil, fmt.Errorf("%w: metering.prices[%d] (%s): %w", ErrConfig, i, agent, err)
		}
	}
	book, err := metering.NewPriceBook(lists...)
	if err != nil {
		return nil, fmt.Errorf("%w: metering.prices: %w", ErrConfig, err)
	}
	return book, nil
}
