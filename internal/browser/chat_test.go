package browser_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/internal/browser"
)

// A message sent on one page appears on the other pages at once.
func TestChat(t *testing.T) {
	url := browser.Run(t, "./examples/chat", "-serve").Match(`^open +(\S+)$`)[1]
	ada := browser.Start(t).Open(url)
	ada.WaitText("#state", "only you are here")
	ada.Type("#author", "Ada")
	ada.Type("#text", "Is anybody here?\n")
	ada.WaitText("li.mine p", "Is anybody here?")

	chromium := browser.Start(t) // a second user, with a separate browser
	grace := chromium.Open(url)
	grace.WaitText("li p", "Is anybody here?") // sent before this page was opened
	ada.WaitText("#state", "2 people are here")
	grace.Type("#author", "Grace")
	grace.Type("#text", "Hello, Ada. I have brought <b>tea</b> & cake.\n")
	ada.WaitText("li:not(.mine) p", "I have brought <b>tea</b> & cake.")
	ada.Type("#text", "Then come over to the kitchen!\n")
	grace.WaitText("li p", "Then come over to the kitchen!")

	want := []string{"Is anybody here?", "Hello, Ada. I have brought <b>tea</b> & cake.", "Then come over to the kitchen!"}
	for name, page := range map[string]*browser.Page{"ada": ada, "grace": grace} {
		if diff := cmp.Diff(want, page.Texts("li p")); diff != "" {
			t.Errorf("messages in the page of %s (-want +got):\n%s", name, diff)
		}
	}
	ada.Screenshot("chat")
	grace.Resize(390, 640)
	grace.Screenshot("chat-narrow")

	// The other room shows no messages from the first room.
	grace.Click("nav a:not([aria-current])")
	grace.WaitText("#state", "only you are here")
	ada.WaitText("#state", "only you are here")
	grace.WaitVisible("#empty")

	// A page that returns to a room shows the messages sent in the meantime.
	ada.Type("#text", "Where are you?\n")
	ada.WaitText("li.mine p", "Where are you?")
	browser.Eval[any](grace, "history.back()")
	grace.WaitText("li p", "Where are you?")
	ada.WaitText("#state", "2 people are here")

	// There is no such room.
	chromium.Open(url+"?room=cellar").WaitText("#state", "there is no such room")
}
