// The command docs makes HTML of the project's Markdown: README.md is
// index.html, and every page has links to the others. A link to a page that is
// not there, or to a heading that a page has not, is an error, so that the
// documents stay true.
//
// It refuses to know what the pages say, and to fetch anything.
package main

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
)

func main() {
	root := flag.String("root", ".", "the project")
	out := flag.String("out", ".cache/docs", "folder for the pages")
	flag.Parse()
	index, err := write(*root, *out)
	if err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
	fmt.Println(index)
}

// page is one document. Paths are the project's, with slashes.
type page struct {
	source string // docs/design.md
	name   string // design.html
	title  string
	text   []byte
	tree   ast.Node
	ids    map[string]bool // of its headings
}

// write makes all pages, and returns the path of the first.
func write(root, out string) (index string, err error) {
	markdown := goldmark.New(goldmark.WithExtensions(extension.GFM), goldmark.WithParserOptions(parser.WithAutoHeadingID()))
	pages, err := read(root, markdown)
	if err != nil {
		return "", err
	}
	var problems []error
	for _, p := range pages {
		problems = append(problems, p.link(root, out, pages)...)
	}
	if err := errors.Join(problems...); err != nil {
		return "", err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	for _, p := range pages {
		var body, whole bytes.Buffer
		if err := markdown.Renderer().Render(&body, p.text, p.tree); err != nil {
			return "", fmt.Errorf("%s: %w", p.source, err)
		}
		err := layout.Execute(&whole, map[string]any{"Title": p.title, "Name": p.name, "Pages": views(pages), "Body": template.HTML(body.String())})
		if err != nil {
			return "", fmt.Errorf("%s: %w", p.source, err)
		}
		if err := os.WriteFile(filepath.Join(out, p.name), whole.Bytes(), 0o644); err != nil {
			return "", err
		}
	}
	return filepath.Join(out, "index.html"), nil
}

// read parses README.md, CHANGELOG.md and docs/*.md.
func read(root string, markdown goldmark.Markdown) ([]*page, error) {
	docs, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	slices.Sort(docs)
	sources := []string{"README.md"}
	for _, d := range docs {
		sources = append(sources, "docs/"+filepath.Base(d))
	}
	var pages []*page
	for _, source := range append(sources, "CHANGELOG.md") {
		b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(source)))
		if err != nil {
			return nil, err
		}
		p := &page{source: source, text: b, ids: make(map[string]bool)}
		p.name = strings.ToLower(strings.TrimSuffix(path.Base(source), ".md")) + ".html"
		if source == "README.md" {
			p.name = "index.html"
		}
		p.tree = markdown.Parser().Parse(text.NewReader(b))
		walk(p.tree, func(n ast.Node) {
			h, ok := n.(*ast.Heading)
			if !ok {
				return
			}
			p.title = cmp.Or(p.title, plain(h, b))
			if id, ok := h.AttributeString("id"); ok {
				if b, ok := id.([]byte); ok {
					p.ids[string(b)] = true
				}
			}
		})
		p.title = cmp.Or(p.title, source)
		pages = append(pages, p)
	}
	return pages, nil
}

// link has links to documents lead to their pages, and those to other files of
// the project to where these are, seen from out.
func (p *page) link(root, out string, pages []*page) (problems []error) {
	walk(p.tree, func(n ast.Node) {
		l, ok := n.(*ast.Link)
		if !ok {
			return
		}
		to, err := p.leads(root, out, string(l.Destination), pages)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: link to %s: %w", p.source, l.Destination, err))
		}
		l.Destination = []byte(to)
	})
	return problems
}

func (p *page) leads(root, out, link string, pages []*page) (string, error) {
	u, err := url.Parse(link)
	if err != nil || u.IsAbs() || u.Host != "" {
		return link, err
	}
	target := p.source
	if u.Path != "" {
		target = path.Join(path.Dir(p.source), u.Path)
	}
	if i := slices.IndexFunc(pages, func(other *page) bool { return other.source == target }); i >= 0 {
		if u.Fragment != "" && !pages[i].ids[u.Fragment] {
			return link, fmt.Errorf("%s has no heading %s", target, u.Fragment)
		}
		return (&url.URL{Path: pages[i].name, Fragment: u.Fragment}).String(), nil
	}
	file := filepath.Join(root, filepath.FromSlash(target))
	if _, err := os.Stat(file); err != nil {
		return link, err
	}
	from, err := filepath.Abs(out)
	if err != nil {
		return link, err
	}
	if file, err = filepath.Abs(file); err != nil {
		return link, err
	}
	there, err := filepath.Rel(from, file)
	return (&url.URL{Path: filepath.ToSlash(there)}).String(), err
}

// walk visits every node of a tree once.
func walk(tree ast.Node, visit func(ast.Node)) {
	_ = ast.Walk(tree, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // visit has no error to pass on
		if entering {
			visit(n)
		}
		return ast.WalkContinue, nil
	})
}

// plain is the text of a node without its form.
func plain(n ast.Node, source []byte) string {
	var b strings.Builder
	walk(n, func(n ast.Node) {
		if t, ok := n.(*ast.Text); ok {
			b.Write(t.Segment.Value(source))
		}
	})
	return b.String()
}

// view is a page in the list of pages.
type view struct{ Name, Title string }

func views(pages []*page) (all []view) {
	for _, p := range pages {
		all = append(all, view{p.name, p.title})
	}
	return all
}

var layout = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 17px/1.55 system-ui, sans-serif; max-width: 52rem; margin: 0 auto; padding: 1rem 1.2rem 4rem; }
nav { border-bottom: 1px solid var(--line); padding-bottom: .6rem; margin-bottom: 1.5rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
nav a.here { font-weight: 600; text-decoration: none; color: inherit; }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 .6rem; }
h1 { margin-top: 0; }
pre, code { font-family: ui-monospace, monospace; font-size: .88em; }
pre { background: var(--soft); padding: .8rem 1rem; overflow-x: auto; border-radius: 4px; }
:not(pre) > code { background: var(--soft); padding: .1em .3em; border-radius: 3px; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: .92em; }
th, td { border: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
</style>
</head>
<body>
<nav>{{range .Pages}}<a href="{{.Name}}"{{if eq .Name $.Name}} class="here"{{end}}>{{.Title}}</a> {{end}}</nav>
{{.Body}}</body>
</html>
`))
