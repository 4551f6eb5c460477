package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// project has the given files, and a folder for pages.
func project(t *testing.T, files map[string]string) (root, out string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root, filepath.Join(root, ".cache", "docs")
}

func TestLinksLeadToPagesAndFiles(t *testing.T) {
	root, out := project(t, map[string]string{
		"README.md":         "# Read\n\n[d](docs/design.md), [w](docs/design.md#two-words), [x](https://example.org/a.md), [l](LICENSE)\n\n| a | b |\n| - | - |\n| 1 | 2 |\n",
		"CHANGELOG.md":      "# Changes\n",
		"docs/design.md":    "# Design `of` it\n\n## Two words\n\n[r](../README.md), [up](#two-words), [code](../pkg/code.go), [c](../CHANGELOG.md)\n",
		"LICENSE":           "",
		"pkg/code.go":       "",
		"docs/no-page.html": "",
	})
	index, err := write(root, out)
	if err != nil {
		t.Fatal(err)
	}
	if index != filepath.Join(out, "index.html") {
		t.Errorf("the first page is %s", index)
	}
	for name, wants := range map[string][]string{
		"index.html": {
			`href="design.html">d<`, `href="design.html#two-words"`, `href="https://example.org/a.md"`, `href="../../LICENSE"`,
			"<td>1</td>", "<title>Read</title>", `<a href="changelog.html">Changes</a>`, `<a href="index.html" class="here">Read</a>`,
		},
		"design.html":    {`href="index.html">r<`, `href="design.html#two-words">up<`, `href="../../pkg/code.go"`, `href="changelog.html">c<`, `<h2 id="two-words">`, "<title>Design of it</title>"},
		"changelog.html": {"<title>Changes</title>"},
	} {
		b, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s has no %s:\n%s", name, want, b)
			}
		}
	}
}

func TestBrokenLinksAreErrors(t *testing.T) {
	root, out := project(t, map[string]string{
		"README.md":      "[a](docs/absent.md), [b](docs/design.md#nowhere), [c](pkg/absent.go), [d](#here)\n",
		"CHANGELOG.md":   "",
		"docs/design.md": "# Design\n",
	})
	_, err := write(root, out)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"docs/absent.md", "docs/design.md has no heading nowhere", "pkg/absent.go", "README.md has no heading here"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("pages with broken links are written")
	}
}
