package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// sdk is an SDK whose worker can run as a peer.
type sdk struct {
	name    string // of the matrix column and the directory below peers
	title   string // package and version
	runtime string // as reported to the engine
	install func(ctx context.Context, src, cache string) (argv []string, err error)
}

// sdks lists the peers. The first one is the control: its program uses package iii.
var sdks = []sdk{
	{"go", "this package", "go", installGo},
	{"node", "npm iii-sdk 0.22.1", "node", installNode},
	{"python", "PyPI iii-sdk 0.25.0", "python", installPython},
	{"rust", "crates.io iii-sdk 0.26.0-rc.4", "rust", installRust},
}

func installGo(ctx context.Context, src, cache string) ([]string, error) {
	program := filepath.Join(cache, "peer")
	return []string{program}, tool(ctx, src, nil, "go", "build", "-o", program, ".")
}

func installNode(ctx context.Context, src, cache string) ([]string, error) {
	argv := []string{"node", filepath.Join(cache, "peer.mjs")}
	// Node.js looks for modules next to the file that imports them.
	if err := copyFiles(src, cache, "package.json", "package-lock.json", "peer.mjs"); err != nil {
		return nil, err
	}
	return argv, once(cache, "package-lock.json", func() error {
		return tool(ctx, cache, nil, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	})
}

func installPython(ctx context.Context, src, cache string) ([]string, error) {
	python := filepath.Join(cache, "venv", "bin", "python")
	if err := copyFiles(src, cache, "requirements.txt"); err != nil {
		return nil, err
	}
	err := once(cache, "requirements.txt", func() error {
		if err := tool(ctx, cache, nil, "python3", "-m", "venv", "--clear", "venv"); err != nil {
			return err
		}
		return tool(ctx, cache, nil, python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", "requirements.txt")
	})
	return []string{python, filepath.Join(src, "peer.py")}, err
}

func installRust(ctx context.Context, src, cache string) ([]string, error) {
	target := filepath.Join(cache, "target")
	argv := []string{filepath.Join(target, "debug", "peer")}
	sources, err := filepath.Glob(filepath.Join(src, "src", "*.rs"))
	if err != nil {
		return nil, err
	}
	files := []string{"Cargo.toml"}
	for _, source := range sources {
		files = append(files, "src/"+filepath.Base(source))
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(cache, "src"), 0o755), copyFiles(src, cache, files...)); err != nil {
		return nil, err
	}
	if err := lockCrates(ctx, filepath.Join(src, "crates.lock"), cache); err != nil {
		return nil, err
	}
	return argv, tool(ctx, cache, []string{"CARGO_TARGET_DIR=" + target}, "cargo", "build", "--locked", "--quiet")
}

// lockCrates writes a lock file for cargo to dir. It copies the repository's lock file, whose
// path is crates, and adds the source lines that this file lacks. All crates come from the
// same registry, so lockCrates takes the source line from a lock file that cargo generates. To
// update the repository's file, run "cargo update" in dir and store the output of "grep -v
// '^source = ' Cargo.lock".
func lockCrates(ctx context.Context, crates, dir string) error {
	kept, err := os.ReadFile(crates)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, "Cargo.lock")
	if lock, err := os.ReadFile(name); err == nil && sourceLine.ReplaceAllString(string(lock), "") == string(kept) {
		return nil
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := tool(ctx, dir, nil, "cargo", "generate-lockfile", "--quiet"); err != nil {
		return err
	}
	fresh, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	source := sourceLine.FindString(string(fresh))
	if source == "" {
		return fmt.Errorf("%s names no registry", name)
	}
	return os.WriteFile(name, []byte(checksumLine.ReplaceAllString(string(kept), source+"$0")), 0o644)
}

var (
	sourceLine   = regexp.MustCompile(`(?m)^source = .*\n`)
	checksumLine = regexp.MustCompile(`(?m)^checksum = `) // only crates from a registry have a checksum
)

// tool runs a command in a directory. If the command fails, the error includes its output.
func tool(ctx context.Context, dir string, env []string, name string, args ...string) error {
	if _, err := exec.LookPath(name); err != nil {
		return fmt.Errorf("%s is needed: %w", name, err)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// once runs f unless f has already succeeded with the current content of the given file in
// dir.
func once(dir, file string, f func() error) error {
	content, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return err
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	stamp := filepath.Join(dir, ".installed")
	if old, err := os.ReadFile(stamp); err == nil && string(old) == sum {
		return nil
	}
	if err := f(); err != nil {
		return err
	}
	return os.WriteFile(stamp, []byte(sum), 0o644)
}

// copyFiles copies files to another directory. It skips unchanged files, which therefore keep
// their modification times and are not built again.
func copyFiles(from, to string, names ...string) error {
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if old, err := os.ReadFile(filepath.Join(to, name)); err == nil && bytes.Equal(old, content) {
			continue
		}
		if err := os.WriteFile(filepath.Join(to, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// peerConfig is the configuration that a peer's program reads from INTEROP_PEER.
type peerConfig struct {
	URL       string            `json:"url"`
	Name      string            `json:"name"`
	Namespace string            `json:"namespace,omitempty"`
	Headers   map[string]string `json:"headers"`
}

// peer is a running peer program.
type peer struct {
	config peerConfig
	cmd    *exec.Cmd
	log    *os.File
	ended  chan struct{} // closed when the program has exited
	err    error         // set before ended is closed
}

// startPeer starts a peer's program and writes its output to a file in dir.
func startPeer(ctx context.Context, argv []string, dir string, config peerConfig) (*peer, error) {
	p := &peer{config: config, ended: make(chan struct{})}
	var err error
	if p.log, err = os.Create(filepath.Join(dir, config.Name+".log")); err != nil {
		return nil, err
	}
	b, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	p.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), "INTEROP_PEER="+string(b), "PYTHONDONTWRITEBYTECODE=1",
		"NO_PROXY=*", "no_proxy=*") // proxies are only for the installation
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("peer: %w", err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// stop terminates the program, and kills it if it does not exit in time.
func (p *peer) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	_ = p.log.Close()
}

// gone returns an error if the program has exited on its own.
func (p *peer) gone() error {
	select {
	case <-p.ended:
		out, _ := os.ReadFile(p.log.Name())
		return fmt.Errorf("the peer's program ended: %s\n%s", p.cmd.ProcessState, out)
	default:
		return nil
	}
}
