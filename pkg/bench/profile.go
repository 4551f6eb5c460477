package bench

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/pprof/profile"
)

// Profile says where one process spent its time in one load, and what it
// allocated.
type Profile struct {
	Load    string `json:"load"`    // "256 × 1"
	Process string `json:"process"` // "gate"
	// Parts are shares of the processor time by what was at work, Functions by the
	// function alone, and Allocations are shares of the bytes allocated.
	Parts       []Share `json:"parts"`
	Functions   []Share `json:"functions"`
	Allocations []Share `json:"allocations"`
}

// Share is a part of a whole.
type Share struct {
	Name  string  `json:"name"`
	Share float64 `json:"share"` // 0 to 1
}

// profile runs the two main loads once more, on fresh processes, for profiles.
func (b *bench) profile(ctx context.Context) (err error) {
	folder := b.Profiles
	if folder == "" {
		if folder, err = os.MkdirTemp("", "minigate-bench-"); err != nil {
			return fmt.Errorf("bench: folder for profiles: %w", err)
		}
		defer os.RemoveAll(folder)
	} else if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("bench: folder for profiles: %w", err)
	}
	b.profiles = folder
	defer func() { b.profiles = "" }()
	for _, s := range mainShapes()[:2] {
		b.profiled = strconv.Itoa(s.connections) + "x" + strconv.Itoa(s.inFlight)
		gates, _, err := b.startPath(ctx, 1, 1)
		if err != nil {
			return err
		}
		if _, err := b.drive(ctx, gates[0].addresses["tcp"], s); err != nil {
			return err
		}
		if err := b.stopChildren(0); err != nil {
			return err
		}
		for _, name := range []string{"gate", "worker"} {
			p, err := readProfile(filepath.Join(folder, b.profiled+"-"+name))
			if err != nil {
				return err
			}
			p.Load, p.Process = s.String(), name
			b.report.Profiles = append(b.report.Profiles, p)
		}
	}
	return nil
}

// readProfile reads what profiled has left.
func readProfile(file string) (p Profile, err error) {
	cpu, err := parseProfile(file + ".cpu")
	if err != nil {
		return p, err
	}
	heap, err := parseProfile(file + ".heap")
	if err != nil {
		return p, err
	}
	p.Parts, p.Functions = shares(cpu, len(cpu.SampleType)-1, part), shares(cpu, len(cpu.SampleType)-1, function)
	for i, t := range heap.SampleType {
		if t.Type == "alloc_space" {
			p.Allocations = shares(heap, i, allocator)
		}
	}
	return p, nil
}

func parseProfile(file string) (*profile.Profile, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("bench: profile: %w", err)
	}
	defer f.Close()
	p, err := profile.Parse(f)
	if err != nil {
		return nil, fmt.Errorf("bench: profile %s: %w", filepath.Base(file), err)
	}
	return p, nil
}

const keepShares = 8

// shares adds the samples up by what of says of a stack, the innermost function
// first, and keeps the largest.
func shares(p *profile.Profile, value int, of func(stack []string) string) []Share {
	sums, all := make(map[string]int64), int64(0)
	for _, s := range p.Sample {
		var stack []string
		for _, location := range s.Location {
			for _, l := range location.Line { // what was inlined is first
				if l.Function != nil {
					stack = append(stack, withoutTypes(l.Function.Name))
				}
			}
		}
		sums[of(stack)] += s.Value[value]
		all += s.Value[value]
	}
	if all == 0 {
		return nil
	}
	var list []Share
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		list = append(list, Share{name, float64(sums[name]) / float64(all)})
	}
	slices.SortStableFunc(list, func(a, b Share) int { return cmp.Compare(b.Share, a.Share) })
	return list[:min(len(list), keepShares)]
}

const ourModule = "github.com/motto123/minigate/"

// part says what is at work in a stack: the kernel, the collector, or the package
// that called for what is done.
func part(stack []string) string {
	if len(stack) == 0 {
		return "unknown"
	}
	if strings.Contains(stack[0], "yscall") || strings.HasPrefix(stack[0], "runtime.epoll") || strings.HasPrefix(stack[0], "runtime.netpoll") {
		return "system calls: " + caller(stack)
	}
	for _, f := range stack {
		switch f {
		case "runtime.gcBgMarkWorker", "runtime.gcAssistAlloc", "runtime.bgsweep", "runtime.bgscavenge", "runtime.gcStart":
			return "garbage collector"
		case "runtime.mallocgc", "runtime.growslice":
			return "allocation: " + caller(stack)
		case "runtime.schedule", "runtime.park_m", "runtime.mcall", "runtime.findRunnable", "runtime.wakep", "runtime.ready", "runtime.goready", "runtime.futexwakeup", "runtime.futexsleep":
			return "scheduler of Go"
		}
	}
	return caller(stack)
}

// caller is the first package in a stack that is not Go's own.
func caller(stack []string) string {
	for _, f := range stack {
		if name := packageOf(f); strings.Contains(name, ".") && name != "golang.org/x/sys/unix" {
			return shortPackage(name)
		}
	}
	return "packages of Go"
}

// withoutTypes leaves out of a function's name what it is instantiated with.
func withoutTypes(function string) string {
	begin, end := strings.IndexByte(function, '['), strings.LastIndexByte(function, ']')
	if begin < 0 || end < begin {
		return function
	}
	return function[:begin] + function[end+1:]
}

// packageOf is the import path in a function's name.
func packageOf(function string) string {
	folder, rest := "", function
	if i := strings.LastIndexByte(function, '/'); i >= 0 {
		folder, rest = function[:i+1], function[i+1:]
	}
	name, _, _ := strings.Cut(rest, ".")
	return folder + name
}

func shortPackage(name string) string {
	if rest, ok := strings.CutPrefix(name, ourModule); ok {
		return rest
	}
	host, rest, ok := strings.Cut(name, "/")
	if host == "github.com" {
		_, rest, ok = strings.Cut(rest, "/") // the owner
	}
	if !ok {
		return name
	}
	return rest
}

func shortFunction(f string) string {
	name := packageOf(f)
	return shortPackage(name) + strings.TrimPrefix(f, name)
}

func function(stack []string) string {
	if len(stack) == 0 {
		return "unknown"
	}
	return shortFunction(stack[0])
}

// allocator is the first function that is not the runtime's.
func allocator(stack []string) string {
	for _, f := range stack {
		if !strings.HasPrefix(f, "runtime.") {
			return shortFunction(f)
		}
	}
	return function(stack)
}

// profileTables are the profiles for people: a column for each process and load.
func profileTables(all []Profile) string {
	if len(all) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("\n**where the time goes: profiles of the two main loads, over TCP**\n")
	for _, table := range []struct {
		title string
		of    func(Profile) []Share
	}{
		{"Processor time, by what is at work", func(p Profile) []Share { return p.Parts }},
		{"Processor time, by function alone", func(p Profile) []Share { return p.Functions }},
		{"Bytes allocated, by function", func(p Profile) []Share { return p.Allocations }},
	} {
		fmt.Fprintf(&b, "\n%s:\n\n", table.title)
		rows, rule := 0, ""
		for _, p := range all {
			fmt.Fprintf(&b, "| %s, %s ", p.Process, p.Load)
			rule += "| --- "
			rows = max(rows, len(table.of(p)))
		}
		b.WriteString("|\n" + rule + "|\n")
		for i := range rows {
			for _, p := range all {
				cell := ""
				if list := table.of(p); i < len(list) {
					cell = fmt.Sprintf("%.0f %% %s", 100*list[i].Share, list[i].Name)
				}
				fmt.Fprintf(&b, "| %s ", cell)
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}
