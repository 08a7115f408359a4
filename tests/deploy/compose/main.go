// Loads a compose file with the library of `docker compose`, and prints the environment of its nodes, or the errors.
// Unlike a schema, the library finds references to missing secrets and networks.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	if err := printEnvironment(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func printEnvironment() error {
	options, err := cli.NewProjectOptions(os.Args[1:], cli.WithProfiles([]string{"*"}))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	node, err := project.GetService("node")
	if err != nil {
		return err
	}
	for name, value := range node.Environment {
		if value == nil {
			return fmt.Errorf("%s has no value", name)
		}
		fmt.Printf("%s=%s\n", name, *value)
	}
	return nil
}
