// Package metricstest reads in tests what a part of a process tells Prometheus.
//
// It refuses to scrape a running process: tests of the whole do that themselves.
package metricstest

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Text is what a scrape of the collectors gets. The test fails where a metric is
// not declared, is there twice, or has the wrong labels.
func Text(t testing.TB, collectors ...prometheus.Collector) string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	for _, c := range collectors {
		if err := registry.Register(c); err != nil {
			t.Fatalf("register: %v", err)
		}
	}
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("scrape: %d: %s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}

// Expect fails the test where a scrape of c has not got each of lines, such as
// `minigate_bus_unconfirmed 0`, with the labels in the order of their names.
func Expect(t testing.TB, c prometheus.Collector, lines ...string) {
	t.Helper()
	text := Text(t, c)
	for _, want := range lines {
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(want) + `$`).MatchString(text) {
			name, _, _ := strings.Cut(strings.ReplaceAll(want, " ", "{"), "{")
			t.Errorf("got no line\n  %s\nbut\n%s", want, strings.Join(regexp.MustCompile(`(?m)^`+name+`[ {].*$`).FindAllString(text, -1), "\n"))
		}
	}
}

// Series are the lines of a scrape that are no comments.
func Series(t testing.TB, c prometheus.Collector) int {
	t.Helper()
	return len(regexp.MustCompile(`(?m)^[^#]`).FindAllString(Text(t, c), -1))
}
