package browser

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// patience is the time limit for each step. Even on a slow machine, steps take only a fraction
// of it.
const patience = 30 * time.Second

// Page is a page in a tab, opened by [Browser.Open]. A method that fails or takes longer than
// 30 seconds ends the test and saves a screenshot. Selectors are CSS selectors. Call the
// methods only from the test's goroutine.
type Page struct {
	t   testing.TB
	ctx context.Context // chromedp's context
}

// watch fails the test on uncaught exceptions and console errors.
func (p *Page) watch() {
	messages := chromedp.Console(p.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m, err := range messages {
			if err != nil {
				return
			}
			if m.IsException() || m.Type == "error" && m.Source == "" { // a message with a source reports a network event
				p.t.Errorf("console of the page: %s", m)
			}
		}
	}()
	p.t.Cleanup(func() {
		_ = chromedp.Cancel(p.ctx) // closes the channel of messages
		<-done
	})
}

// do runs the actions of one step within the time limit.
func (p *Page) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.fail(what, err)
	}
}

// persist runs a step that first looks up an element. It repeats the step if the page replaces
// the element in the meantime.
func (p *Page) persist(what string, step chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	for {
		err := chromedp.Do(ctx, step)
		switch {
		case err == nil:
			return
		case !replaced(err):
			p.fail(what, err)
		}
	}
}

// replaced reports whether err means that an element no longer exists, as in "Could not find
// node with given id".
func replaced(err error) bool {
	var refusal *cdproto.Error
	return errors.As(err, &refusal) && (strings.Contains(refusal.Message, "node") || strings.Contains(refusal.Message, "box model"))
}

// fail saves a screenshot and ends the test with an error that includes the page's text.
func (p *Page) fail(what string, err error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	text, textErr := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body?.innerText ?? ''"))
	if textErr != nil {
		text = textErr.Error()
	}
	picture, pictureErr := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if pictureErr == nil {
		p.t.Logf("the page as it is: %s", p.save("failed-"+strings.ReplaceAll(p.t.Name(), "/", "-"), picture))
	}
	p.t.Fatalf("%s: %v\nthe page says:\n%s", what, err, text)
}

// Resize sets the page's size in CSS pixels.
func (p *Page) Resize(width, height int) {
	p.t.Helper()
	p.do("resize", chromedp.EmulateViewport(int64(width), int64(height)))
}

// Dark sets whether the emulated user prefers dark colors.
func (p *Page) Dark(on bool) {
	p.t.Helper()
	value := map[bool]string{false: "light", true: "dark"}[on]
	p.do("prefer "+value+" colors", chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}},
		})
		return err
	}))
}

// Press sends keys, such as "/" or kb.Escape, to the focused element.
func (p *Page) Press(keys string) {
	p.t.Helper()
	p.do("press "+strconv.Quote(keys), chromedp.KeyEvent(keys))
}

// Click waits until the element is visible, then clicks it.
func (p *Page) Click(selector string) {
	p.t.Helper()
	p.persist("click on "+selector, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// Type waits until the element is visible, then types text into it key by key. A "\n" presses
// Enter.
func (p *Page) Type(selector, text string) {
	p.t.Helper()
	p.persist("type into "+selector, chromedp.SendKeys(chromedp.CSS(selector), text, chromedp.NodeVisible))
}

// WaitVisible waits until the element is visible.
func (p *Page) WaitVisible(selector string) {
	p.t.Helper()
	p.do("wait for "+selector, chromedp.WaitVisible(chromedp.CSS(selector)))
}

// WaitText waits until the visible text of a matching element contains text.
func (p *Page) WaitText(selector, text string) {
	p.t.Helper()
	p.wait(fmt.Sprintf("wait for %q in %s", text, selector),
		`(selector, text) => [...document.querySelectorAll(selector)].some(e => e.innerText.includes(text))`, selector, text)
}

// WaitGone waits until no element matches the selector.
func (p *Page) WaitGone(selector string) {
	p.t.Helper()
	p.wait("wait for the end of "+selector, `selector => document.querySelector(selector) === null`, selector)
}

// Wait calls a JavaScript function with args repeatedly until the result is truthy.
func (p *Page) Wait(function string, args ...any) {
	p.t.Helper()
	p.wait("wait for "+function, function, args...)
}

// wait calls function repeatedly. It ignores errors until the time limit, because calls fail
// while the browser loads another page.
func (p *Page) wait(what, function string, args ...any) {
	p.t.Helper()
	list, err := json.Marshal(append([]any{}, args...)) // [] rather than null without arguments
	if err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
	ask := chromedp.Evaluate[bool](fmt.Sprintf("!!(%s)(...%s)", function, list))
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		ok, err := chromedp.Run(ctx, ask)
		if ok && err == nil {
			return
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			p.fail(what, errors.Join(err, ctx.Err()))
		}
	}
}

// Texts returns the visible text of each element that matches selector, in document order.
func (p *Page) Texts(selector string) []string {
	p.t.Helper()
	return Eval[[]string](p, fmt.Sprintf("[...document.querySelectorAll(%q)].map(e => e.innerText)", selector))
}

// Eval evaluates a JavaScript expression in the page.
func Eval[T any](p *Page, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.fail("evaluate "+expression, err)
	}
	return value
}

// Screenshot saves an image of the page's visible part as name.png, in the directory
// $SCREENSHOTS or, if that is unset, in the repository's bin/screenshots. It logs and returns
// the path.
func (p *Page) Screenshot(name string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	picture, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil && len(picture) == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		p.t.Fatalf("screenshot %s: %v", name, err)
	}
	path := p.save(name, picture)
	p.t.Logf("screenshot %s", path)
	return path
}

// save writes an image and returns its path.
func (p *Page) save(name string, picture []byte) string {
	p.t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		dir = filepath.Join(root(p.t), "bin", "screenshots")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	path := filepath.Join(dir, name+".png")
	if err := os.WriteFile(path, picture, 0o644); err != nil {
		p.t.Fatal(err)
	}
	return path
}
