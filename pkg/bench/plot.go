package bench

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Curve is a plot: lines over common axes, for a file beside the document.
type Curve struct {
	File  string `json:"file"`
	Title string `json:"title"`
	X     Axis   `json:"x"`
	Y     Axis   `json:"y"`
	Lines []Line `json:"lines"`
}

// Axis is what a curve is drawn over. One that is not logarithmic begins at 0.
type Axis struct {
	Name string `json:"name"` // with the unit
	Log  bool   `json:"log,omitempty"`
}

// Line is a line of a curve, its points from left to right.
type Line struct {
	Name   string       `json:"name"`
	Dashed bool         `json:"dashed,omitempty"`
	Points [][2]float64 `json:"points"`
}

func (l *Line) add(x, y float64) { l.Points = append(l.Points, [2]float64{x, y}) }

// scale is an axis with its bounds, and where its ticks are.
type scale struct {
	Axis
	low, high float64
	ticks     []float64
}

// newScale takes all values in, and a little more.
func newScale(a Axis, values []float64) scale {
	s := scale{Axis: a, high: 1}
	if a.Log {
		s.low, s.high = math.Inf(1), math.Inf(-1)
		for _, v := range values {
			if v > 0 {
				s.low, s.high = min(s.low, v), max(s.high, v)
			}
		}
		if s.low > s.high {
			s.low, s.high = 1, 10
		}
		first, last := math.Floor(math.Log10(s.low)+1e-9), math.Ceil(math.Log10(s.high)-1e-9)
		s.low, s.high = math.Pow(10, first), math.Pow(10, max(last, first+1))
		steps := []float64{1}
		if last-first <= 3 {
			steps = []float64{1, 2, 5}
		}
		for e := first; e < max(last, first+1); e++ {
			for _, n := range steps {
				s.ticks = append(s.ticks, n*math.Pow(10, e))
			}
		}
		s.ticks = append(s.ticks, s.high)
		return s
	}
	most := 0.0
	for _, v := range values {
		most = max(most, v)
	}
	if most == 0 {
		most = 1
	}
	// About five steps of 1, 2 or 5 times a power of ten.
	step := math.Pow(10, math.Floor(math.Log10(most/5)))
	for _, by := range []float64{2, 2.5, 2} {
		if most/step > 6 {
			step *= by
		}
	}
	s.high = math.Ceil(most/step-1e-9) * step
	for i := 0; float64(i)*step <= s.high*(1+1e-9); i++ {
		s.ticks = append(s.ticks, float64(i)*step)
	}
	return s
}

// at is where a value is, from 0 to 1.
func (s scale) at(v float64) float64 {
	if s.Log {
		return (math.Log10(max(v, s.low)) - math.Log10(s.low)) / (math.Log10(s.high) - math.Log10(s.low))
	}
	return (v - s.low) / (s.high - s.low)
}

func tick(v float64) string {
	if v >= 1000 {
		return thousands(int64(v + 0.5))
	}
	return fmt.Sprintf("%.4g", v)
}

const (
	plotWidth, plotHeight = 740.0, 420.0
	plotLeft, plotRight   = 84.0, 170.0 // the legend is on the right
	plotTop, plotBottom   = 48.0, 64.0
)

// plotColors differ in lightness too, so that they can be told apart in grey.
var plotColors = [...]string{"#b2182b", "#e08214", "#2166ac", "#555555"}

// SVG draws the curve.
func (c Curve) SVG() string {
	var xs, ys []float64
	for _, l := range c.Lines {
		for _, p := range l.Points {
			xs, ys = append(xs, p[0]), append(ys, p[1])
		}
	}
	x, y := newScale(c.X, xs), newScale(c.Y, ys)
	width, height := plotWidth-plotLeft-plotRight, plotHeight-plotTop-plotBottom
	atX := func(v float64) float64 { return plotLeft + x.at(v)*width }
	atY := func(v float64) float64 { return plotTop + (1-y.at(v))*height }
	var b strings.Builder
	text := func(x, y float64, anchor, more, s string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="%s"%s>%s</text>`+"\n", x, y, anchor, more, html.EscapeString(s))
	}
	line := func(x1, y1, x2, y2 float64, style string) {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`+"\n", x1, y1, x2, y2, style)
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%[1]g" height="%[2]g" font-family="sans-serif" font-size="13" fill="#222">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%g" height="%g" fill="#fff"/>`+"\n", plotWidth, plotHeight)
	text(plotLeft, 26, "start", ` font-size="16"`, c.Title)
	const grid, frame = `stroke="#ddd"`, `stroke="#222"`
	for _, v := range x.ticks {
		line(atX(v), plotTop, atX(v), plotTop+height, grid)
		text(atX(v), plotTop+height+20, "middle", "", tick(v))
	}
	for _, v := range y.ticks {
		line(plotLeft, atY(v), plotLeft+width, atY(v), grid)
		text(plotLeft-8, atY(v)+4, "end", "", tick(v))
	}
	line(plotLeft, plotTop, plotLeft, plotTop+height, frame)
	line(plotLeft, plotTop+height, plotLeft+width, plotTop+height, frame)
	text(plotLeft+width/2, plotHeight-18, "middle", "", x.Name)
	text(20, plotTop+height/2, "middle", fmt.Sprintf(` transform="rotate(-90 20 %.1f)"`, plotTop+height/2), y.Name)
	for i, l := range c.Lines {
		color, dash := plotColors[i%len(plotColors)], ""
		if l.Dashed {
			dash = ` stroke-dasharray="6 4"`
		}
		var points []string
		for _, p := range l.Points {
			points = append(points, fmt.Sprintf("%.1f,%.1f", atX(p[0]), atY(p[1])))
			if !l.Dashed {
				fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>`+"\n", atX(p[0]), atY(p[1]), color)
			}
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", strings.Join(points, " "), color, dash)
		at := plotTop + 10 + 22*float64(i)
		line(plotLeft+width+14, at, plotLeft+width+38, at, fmt.Sprintf(`stroke="%s" stroke-width="2"%s`, color, dash))
		text(plotLeft+width+44, at+4, "start", ` font-size="12"`, l.Name)
	}
	return b.String() + "</svg>\n"
}
