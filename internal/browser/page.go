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

// patience bounds every single step. What happens at all happens in a fraction of
// it, on a slow machine too.
const patience = 30 * time.Second

// Page is a page in a tab. It is made by Browser.Open. A step that fails, or that
// takes longer than 30 seconds, ends the test, with a screenshot. Selectors are
// those of CSS. Its methods may be called from the test's goroutine alone.
type Page struct {
	t   testing.TB
	ctx context.Context // chromedp's
}

// watch fails the test for errors that the page does not handle.
func (p *Page) watch() {
	messages := chromedp.Console(p.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m, err := range messages {
			if err != nil {
				return
			}
			if m.IsException() || m.Type == "error" && m.Source == "" { // a source has what the network did
				p.t.Errorf("console of the page: %s", m)
			}
		}
	}()
	p.t.Cleanup(func() {
		_ = chromedp.Cancel(p.ctx) // ends the messages
		<-done
	})
}

// do takes a step within the time for it.
func (p *Page) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.fail(what, err)
	}
}

// persist takes a step that begins with looking for an element, again when a page that
// changes by itself has replaced the element meanwhile.
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

// replaced reports whether the browser did not know an element any more: "Could not find
// node with given id" and the like.
func replaced(err error) bool {
	var refusal *cdproto.Error
	return errors.As(err, &refusal) && (strings.Contains(refusal.Message, "node") || strings.Contains(refusal.Message, "box model"))
}

// fail ends the test with what the page shows.
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

// Resize sets the size of the page, in CSS pixels.
func (p *Page) Resize(width, height int) {
	p.t.Helper()
	p.do("resize", chromedp.EmulateViewport(int64(width), int64(height)))
}

// Dark sets whether the page's reader prefers dark colours.
func (p *Page) Dark(on bool) {
	p.t.Helper()
	value := map[bool]string{false: "light", true: "dark"}[on]
	p.do("prefer "+value+" colours", chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}},
		})
		return err
	}))
}

// Press presses keys, such as "/" or kb.Escape, on what has the focus.
func (p *Page) Press(keys string) {
	p.t.Helper()
	p.do("press "+strconv.Quote(keys), chromedp.KeyEvent(keys))
}

// Click waits until there is an element that can be seen, and clicks on it.
func (p *Page) Click(selector string) {
	p.t.Helper()
	p.persist("click on "+selector, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// Type waits until there is an element that can be seen, and types text into it key
// by key. "\n" is the Enter key.
func (p *Page) Type(selector, text string) {
	p.t.Helper()
	p.persist("type into "+selector, chromedp.SendKeys(chromedp.CSS(selector), text, chromedp.NodeVisible))
}

// WaitVisible waits until there is an element that can be seen.
func (p *Page) WaitVisible(selector string) {
	p.t.Helper()
	p.do("wait for "+selector, chromedp.WaitVisible(chromedp.CSS(selector)))
}

// WaitText waits until an element of the selector, any of them, has text in what it
// shows.
func (p *Page) WaitText(selector, text string) {
	p.t.Helper()
	p.wait(fmt.Sprintf("wait for %q in %s", text, selector),
		`(selector, text) => [...document.querySelectorAll(selector)].some(e => e.innerText.includes(text))`, selector, text)
}

// WaitGone waits until no element of the selector is there.
func (p *Page) WaitGone(selector string) {
	p.t.Helper()
	p.wait("wait for the end of "+selector, `selector => document.querySelector(selector) === null`, selector)
}

// Wait waits until a JavaScript function, which gets args, returns something true.
func (p *Page) Wait(function string, args ...any) {
	p.t.Helper()
	p.wait("wait for "+function, function, args...)
}

// wait asks again and again: also while the page gives way to another one.
func (p *Page) wait(what, function string, args ...any) {
	p.t.Helper()
	list, err := json.Marshal(append([]any{}, args...)) // without any it is [], not null
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

// Texts is what the elements of a selector show, in their order in the page.
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

// Screenshot takes a picture of what can be seen of the page, and returns its path:
// name.png in bin/screenshots of the repository, or in $SCREENSHOTS. The test's log
// says it too.
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

// save writes a picture and returns its path.
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
