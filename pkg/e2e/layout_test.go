package e2e_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/motto123/minigate"

// rule says what the packages of a folder may import.
type rule struct {
	// Of the module: itself and these, directly or not. A name stands for what is
	// below it, too; only "pkg/bus" does not, since its carriers are for who opens
	// one.
	own []string
	// Not even where own has what they are in.
	never []string
	// Of other modules, directly; nil is anything.
	others []string
}

var (
	clients  = []string{"pkg/client", "pkg/terminal", "pkg/load", "pkg/bench", "pkg/tail", "pkg/replay"}
	carriers = []string{"pkg/bus/rabbit", "pkg/bus/mem", "pkg/tape/stream"}
)

// rules are the design's table of folders, completed for the packages of pkg that
// it leaves open. A package of pkg that is not here imports nothing of ours.
var rules = map[string]rule{
	"":        {own: []string{"codec", "proto", "pkg", "gate", "workers"}},
	"codec":   {others: []string{}},
	"proto":   {others: []string{"google.golang.org/protobuf", "google.golang.org/grpc"}},
	"gate":    {own: []string{"codec", "proto", "pkg"}, never: slices.Concat(clients, carriers, []string{"pkg/worker"})},
	"workers": {own: []string{"codec", "proto", "pkg"}, never: slices.Concat(clients, carriers)},
	"pkg":     {},

	"pkg/bus":           {own: []string{"proto", "pkg/metrics"}, others: []string{"google.golang.org/protobuf", "github.com/prometheus/client_golang"}},
	"pkg/bus/rabbit":    {own: []string{"pkg/bus", "pkg/metrics", "proto"}, others: []string{"github.com/rabbitmq/amqp091-go"}},
	"pkg/bus/mem":       {own: []string{"pkg/bus", "pkg/metrics", "proto"}, others: []string{}},
	"pkg/bus/bustest":   {own: []string{"pkg/bus", "pkg/metrics", "proto"}, others: []string{}},
	"pkg/events":        {own: []string{"pkg/bus", "pkg/metrics", "pkg/parts", "pkg/stack", "pkg/tracing", "proto"}},
	"pkg/admin":         {own: []string{"pkg/metrics", "pkg/settings"}},
	"pkg/logging":       {own: []string{"pkg/stack"}},
	"pkg/dead":          {own: []string{"codec", "proto", "pkg/bus", "pkg/bus/rabbit", "pkg/metrics", "pkg/sensitive", "pkg/settings"}},
	"pkg/failure":       {own: []string{"codec", "proto"}},
	"pkg/worker":        {own: []string{"codec", "proto", "pkg/bus", "pkg/failure", "pkg/metrics", "pkg/parts", "pkg/presence", "pkg/sensitive", "pkg/stack", "pkg/tape", "pkg/tracing"}, never: []string{"pkg/tape/stream"}},
	"pkg/sensitive":     {own: []string{"proto"}, others: []string{"google.golang.org/protobuf"}},
	"pkg/tape":          {own: []string{"proto", "pkg/bus", "pkg/metrics", "pkg/parts"}},
	"pkg/tape/stream":   {own: []string{"proto", "pkg/bus", "pkg/metrics", "pkg/parts", "pkg/tape"}, others: []string{"github.com/rabbitmq/amqp091-go", "github.com/sirupsen/logrus"}},
	"pkg/client":        {own: []string{"codec", "proto", "pkg/failure"}},
	"pkg/terminal":      {own: []string{"codec", "proto", "pkg/client", "pkg/failure", "pkg/settings"}},
	"pkg/health":        {own: []string{"pkg/settings"}},
	"pkg/process":       {own: []string{"codec", "proto", "pkg", "gate", "workers"}, never: clients},
	"pkg/service":       {own: []string{"codec", "proto", "pkg", "gate", "workers"}, never: clients},
	"pkg/presence":      {others: []string{"github.com/redis/go-redis/v9", "github.com/pkg/errors"}},
	"pkg/authrpc":       {own: []string{"proto", "pkg/certificates", "pkg/discovery", "pkg/grpcauth", "pkg/settings", "pkg/tracing"}, others: []string{"google.golang.org/grpc", "github.com/sirupsen/logrus"}},
	"pkg/certificates":  {own: []string{"pkg/settings"}},
	"pkg/proxyprotocol": {own: []string{"pkg/settings"}},
	"pkg/grpcauth":      {own: []string{"pkg/certificates", "pkg/settings", "pkg/tracing"}},
	"pkg/grpcserver":    {own: []string{"pkg/parts"}, others: []string{"google.golang.org/grpc"}},
	"pkg/tracing":       {},
	"pkg/tracing/otlp":  {own: []string{"pkg/metrics", "pkg/parts", "pkg/settings", "pkg/tracing"}},
	"pkg/load":          {own: []string{"codec", "proto", "pkg/bus", "pkg/failure", "pkg/metrics", "pkg/settings"}},
	"pkg/tail":          {own: []string{"codec", "proto", "pkg/bus", "pkg/bus/rabbit", "pkg/failure", "pkg/metrics", "pkg/parts", "pkg/sensitive", "pkg/settings", "pkg/tape"}},
	"pkg/replay": {own: []string{
		"codec", "proto", "pkg/bus", "pkg/bus/rabbit", "pkg/certificates", "pkg/failure", "pkg/grpcauth", "pkg/grpcserver", "pkg/metrics", "pkg/parts", "pkg/sensitive", "pkg/settings", "pkg/tail", "pkg/tape", "pkg/tracing",
	}},
	"pkg/bench": {own: []string{
		"codec", "proto", "pkg/bus", "pkg/bus/rabbit", "pkg/client", "pkg/failure", "pkg/load", "pkg/metrics", "pkg/parts", "pkg/presence", "pkg/sensitive", "pkg/settings", "pkg/stack", "pkg/tape", "pkg/tracing", "pkg/worker",
	}},

	"pkg/logging/loggingtest": {others: []string{"github.com/sirupsen/logrus"}},
	"pkg/grpcauth/grpctest":   {others: []string{"google.golang.org/grpc"}},
}

// listed is what go list says of a package.
type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Standard   bool
	Module     *struct{ Path string }
}

func packages(t *testing.T) map[string]*listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,Imports,Standard,Module", "./...")
	cmd.Dir = built.root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -deps: %v", err)
	}
	all := make(map[string]*listed)
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		p := new(listed)
		if err := decoder.Decode(p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

// folder is where a package is in the module.
func folder(p *listed) (string, bool) {
	if p.ImportPath == module {
		return "", true
	}
	return strings.CutPrefix(p.ImportPath, module+"/")
}

// TestFolders holds the packages against rules.
func TestFolders(t *testing.T) {
	t.Parallel()
	all := packages(t)
	tested := 0
	for _, p := range all {
		where, ours := folder(p)
		if !ours || len(p.GoFiles) == 0 { // not of the module, or nothing but tests
			continue
		}
		tested++
		if strings.Count(where, "/") > 2 {
			t.Errorf("%s is over three levels deep", where)
		}
		name, found := ruleOf(where)
		if !found {
			t.Errorf("no rule says what %s may import", where)
			continue
		}
		rule, self := rules[name], name
		if name == "pkg" {
			self = strings.Join(strings.SplitN(where, "/", 3)[:2], "/")
		}
		for dep := range reached(all, p) {
			at, ours := folder(all[dep])
			in := func(name string) bool { return within(at, name) }
			if ours && !in(self) && (!slices.ContainsFunc(rule.own, in) || slices.ContainsFunc(rule.never, in)) {
				t.Errorf("%s imports %s, directly or not", where, at)
			}
		}
		for _, dep := range p.Imports {
			at := all[dep]
			if at == nil || at.Standard || at.Module != nil && at.Module.Path == module || rule.others == nil {
				continue
			}
			if !slices.ContainsFunc(rule.others, func(other string) bool { return dep == other || strings.HasPrefix(dep, other+"/") }) {
				t.Errorf("%s imports %s", where, dep)
			}
		}
	}
	if tested < 20 {
		t.Errorf("only %d packages were found", tested)
	}
}

// ruleOf finds the rule of the innermost folder that has one.
func ruleOf(where string) (string, bool) {
	for where != "" && where != "." {
		if _, found := rules[where]; found {
			return where, true
		}
		where = filepath.ToSlash(filepath.Dir(where))
	}
	return "", where == "" // the command; what is in no folder with a rule has none
}

// within reports whether a package may be meant by a name of the rules.
func within(where, name string) bool {
	if name == "pkg/bus" || name == "" {
		return where == name
	}
	return where == name || strings.HasPrefix(where, name+"/")
}

// reached are the packages that p imports, directly or not.
func reached(all map[string]*listed, p *listed) map[string]bool {
	found := make(map[string]bool)
	var visit func(*listed)
	visit = func(p *listed) {
		for _, dep := range p.Imports {
			if next := all[dep]; next != nil && !found[dep] {
				found[dep] = true
				visit(next)
			}
		}
	}
	visit(p)
	return found
}

// bad are names of packages that say nothing about what is in them.
var bad = []string{"utils", "util", "common", "base", "shared", "types", "models", "manager", "helper", "helpers"}

// TestNames: exchanges, queues and keys are named in pkg/bus/topology.go and
// nowhere else, and no folder has a name that means nothing.
func TestNames(t *testing.T) {
	t.Parallel()
	// As they are written there: .request behind a prefix, worker. before a service.
	broker := regexp.MustCompile(`^[\w%.]*\.(request|reply|event|dead|retry|tape)(\.[\w%]*)?$|^(minigate\.)?(worker|gate|ordered|event)\.(all|%[sdvq])?$|^\$announce$`)
	for text, name := range map[string]bool{
		".request": true, "minigate.request": true, "%s.retry.5s": true, "gate.": true, "worker.%s": true, "gate.all": true,
		"auth.login": false, "email.verification": false, "minigate.log": false, "want service.event": false,
	} {
		if broker.MatchString(text) != name {
			t.Fatalf("the pattern takes %q for the other thing", text)
		}
	}
	files := 0
	for _, p := range packages(t) {
		where, ours := folder(p)
		if !ours || strings.HasPrefix(where, "proto/") {
			continue
		}
		if slices.Contains(bad, filepath.Base(p.Dir)) {
			t.Errorf("a package is named %s", where)
		}
		for _, name := range p.GoFiles {
			if files++; where == "pkg/bus" && name == "topology.go" {
				continue
			}
			for _, text := range literals(t, filepath.Join(p.Dir, name)) {
				if broker.MatchString(text) {
					t.Errorf("%s/%s has the name %q, which belongs into pkg/bus/topology.go", where, name, text)
				}
			}
		}
	}
	if files < 100 {
		t.Errorf("only %d files were read", files)
	}
}

// literals are the texts in a file's code, those that are put together of
// constants as one. Tags and paths of imports are none.
func literals(t *testing.T, path string) (all []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case ast.Expr:
			if text, ok := constant(n); ok {
				all = append(all, text)
				return false
			}
		}
		return true
	})
	return all
}

// constant is the text of a literal, or of literals with + between.
func constant(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind != token.STRING {
			return "", false
		}
		text, err := strconv.Unquote(e.Value)
		return text, err == nil
	case *ast.ParenExpr:
		return constant(e.X)
	case *ast.BinaryExpr:
		left, ok := constant(e.X)
		right, too := constant(e.Y)
		return left + right, ok && too && e.Op == token.ADD
	}
	return "", false
}
