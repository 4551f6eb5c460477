package bench

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestScales(t *testing.T) {
	for _, c := range []struct {
		name   string
		axis   Axis
		values []float64
		ticks  []float64
	}{
		{"nothing", Axis{}, nil, []float64{0, 0.2, 0.4, 0.6, 0.8, 1}},
		{"sessions", Axis{}, []float64{0, 1000, 19_900}, []float64{0, 5000, 10_000, 15_000, 20_000}},
		{"megabytes", Axis{}, []float64{24, 57}, []float64{0, 10, 20, 30, 40, 50, 60}},
		{"milliseconds", Axis{Log: true}, []float64{0.5, 30}, []float64{0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100}},
		{"many decades", Axis{Log: true}, []float64{0.02, 3000}, []float64{0.01, 0.1, 1, 10, 100, 1000, 10_000}},
		{"one value", Axis{Log: true}, []float64{10}, []float64{10, 20, 50, 100}},
		{"no value", Axis{Log: true}, nil, []float64{1, 2, 5, 10}},
	} {
		s := newScale(c.axis, c.values)
		if !slices.EqualFunc(s.ticks, c.ticks, func(a, b float64) bool { return math.Abs(a-b) < 1e-9*max(1, b) }) {
			t.Errorf("%s: ticks at %v, want %v", c.name, s.ticks, c.ticks)
		}
		for _, v := range c.values {
			if at := s.at(v); !(at >= 0 && at <= 1) {
				t.Errorf("%s: %v is at %v", c.name, v, at)
			}
		}
	}
}

func TestSVG(t *testing.T) {
	c := Curve{
		Title: "Latency & <load>", X: Axis{Name: "requests a second"}, Y: Axis{Name: "latency in ms", Log: true},
		Lines: []Line{
			{Name: "p99", Points: [][2]float64{{1000, 2}, {100_000, 250}}},
			{Name: "limit", Dashed: true, Points: [][2]float64{{0, 0}, {100_000, 20}}},
		},
	}
	var texts []string
	circles, polylines := 0, 0
	for d := xml.NewDecoder(strings.NewReader(c.SVG())); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := token.(type) {
		case xml.CharData:
			texts = append(texts, strings.TrimSpace(string(e)))
		case xml.StartElement:
			switch e.Name.Local {
			case "circle":
				circles++
			case "polyline":
				polylines++
				for _, a := range e.Attr {
					if a.Name.Local == "points" {
						checkPoints(t, a.Value)
					}
				}
			}
		}
	}
	for _, want := range []string{c.Title, c.X.Name, c.Y.Name, "p99", "limit", "100,000", "0", "1", "10", "1,000"} {
		if !slices.Contains(texts, want) {
			t.Errorf("no text %q in %q", want, texts)
		}
	}
	if circles != 2 || polylines != 2 {
		t.Errorf("%d circles and %d lines", circles, polylines)
	}
}

// checkPoints looks whether all points are between the axes.
func checkPoints(t *testing.T, points string) {
	t.Helper()
	for p := range strings.FieldsSeq(points) {
		xs, ys, _ := strings.Cut(p, ",")
		x, errX := strconv.ParseFloat(xs, 64)
		y, errY := strconv.ParseFloat(ys, 64)
		if errX != nil || errY != nil || x < plotLeft || x > plotWidth-plotRight || y < plotTop || y > plotHeight-plotBottom {
			t.Errorf("a point at %s", p)
		}
	}
}
