package main

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// chart is a bar chart.
type chart struct {
	Title string `json:"title"`
	Unit  string `json:"unit"`
	Bars  []bar  `json:"bars"`
	// Line, if not 0, is a value that is to be reached or not exceeded.
	Line     float64 `json:"line,omitzero"`
	LineName string  `json:"line_name,omitzero"`
}

// bar is one value of a chart; Own is ours.
type bar struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Own   bool    `json:"own,omitzero"`
}

// Sizes of a chart, in pixels.
const (
	chartWidth = 760
	nameWidth  = 240
	valueWidth = 110
	barHeight  = 22
	barStep    = 30
	headHeight = 40
)

// svg draws the chart. It is readable on light and on dark pages: colours follow
// prefers-color-scheme.
func (c chart) svg() string {
	most := c.Line
	for _, b := range c.Bars {
		most = max(most, b.Value)
	}
	room := float64(chartWidth - nameWidth - valueWidth)
	width := func(v float64) float64 {
		if most <= 0 {
			return 0
		}
		return math.Round(v/most*room*10) / 10
	}
	height := headHeight + barStep*len(c.Bars) + 10
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s">
<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.own { fill: #0969da } .peer { fill: #afb8c1 } .line { stroke: #cf222e; stroke-dasharray: 4 3 } .goal { fill: #cf222e; font-size: 11px }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .own { fill: #2f81f7 } .peer { fill: #57606a } .line { stroke: #ff7b72 } .goal { fill: #ff7b72 }
}
</style>
`, chartWidth, height, chartWidth, height, html.EscapeString(c.alternative()))
	fmt.Fprintf(&s, `<text class="title" x="0" y="18">%s</text>`+"\n", html.EscapeString(c.Title))
	for i, b := range c.Bars {
		top := headHeight + barStep*i
		class := "peer"
		if b.Own {
			class = "own"
		}
		fmt.Fprintf(&s, `<text x="%d" y="%d" text-anchor="end">%s</text><rect class="%s" x="%d" y="%d" width="%s" height="%d" rx="2"/><text x="%s" y="%d">%s %s</text>`+"\n",
			nameWidth-8, top+16, html.EscapeString(b.Name), class, nameWidth, top, short(max(1, width(b.Value))), barHeight,
			short(nameWidth+width(b.Value)+6), top+16, short(b.Value), html.EscapeString(c.Unit))
	}
	if c.Line > 0 {
		x := short(nameWidth + width(c.Line))
		fmt.Fprintf(&s, `<line class="line" x1="%s" y1="%d" x2="%s" y2="%d"/><text class="goal" x="%s" y="%d" text-anchor="middle">%s</text>`+"\n",
			x, headHeight-4, x, height-8, x, headHeight-8, html.EscapeString(c.LineName))
	}
	s.WriteString("</svg>\n")
	return s.String()
}

// alternative tells in words what the chart shows.
func (c chart) alternative() string {
	parts := make([]string, len(c.Bars))
	for i, b := range c.Bars {
		parts[i] = fmt.Sprintf("%s %s %s", b.Name, short(b.Value), c.Unit)
	}
	return c.Title + ": " + strings.Join(parts, "; ")
}

// short writes a value with as many digits as it deserves.
func short(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1e6:
		return strconv.FormatFloat(v/1e6, 'f', 2, 64) + " M"
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// chartFile is the name of a row's i-th chart.
func chartFile(id string, i int) string {
	if i == 0 {
		return strings.ToLower(id) + ".svg"
	}
	return fmt.Sprintf("%s-%d.svg", strings.ToLower(id), i+1)
}
