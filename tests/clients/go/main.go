// Etcd's own client, and what foreign programs met with: each scenario runs on three members of every server that is
// named, and its figures stand side by side.
//
//	go run . quorate=target/release/quorate etcd=/usr/bin/etcd
//	go run . -only leases quorate=target/release/quorate
//
// What a scenario demands is demanded of the first server; the others show what they make of it. Ends with 1 if
// something was not as demanded.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
)

// A row is a figure of a scenario, and what is wrong with it, if anything.
type row struct {
	what, figure, wrong string
}

type scenario struct {
	name string
	run  func(server string) ([]row, error)
}

var scenarios = []scenario{
	{"guarded-put", guardedPut},
	{"cut-off", cutOff},
	{"leases-leader", func(server string) ([]row, error) { return manyLeases(server, true) }},
	{"leases-follower", func(server string) ([]row, error) { return manyLeases(server, false) }},
	{"leases-distant", distantLeases},
	{"middle-box", middleBox},
	{"connections-at-once", connectionsAtOnce},
	{"descriptors", descriptors},
}

func main() {
	only := flag.String("only", "", "run the scenarios whose name contains this")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: clients [-only NAME] NAME=SERVER…")
		os.Exit(2)
	}
	failed := false
	for _, scenario := range scenarios {
		if !strings.Contains(scenario.name, *only) {
			continue
		}
		for i, named := range flag.Args() {
			name, server, _ := strings.Cut(named, "=")
			rows, err := scenario.run(server)
			if err != nil {
				rows = append(rows, row{"could not be run", err.Error(), "it has to run"})
			}
			for _, row := range rows {
				fmt.Printf("%-20s %-44s %-8s %s", scenario.name, row.what, name, row.figure)
				if row.wrong != "" {
					fmt.Printf("  <- %s", row.wrong)
					failed = failed || i == 0
				}
				fmt.Println()
			}
		}
	}
	if failed {
		os.Exit(1)
	}
}

// wrongIf is what a figure is wrong about, where the condition holds.
func wrongIf(condition bool, wrong string) string {
	if condition {
		return wrong
	}
	return ""
}
