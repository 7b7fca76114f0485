"""What happens to one who takes a toy along: it is lost, it breaks, it is stuck, another child wants it."""

from __future__ import annotations

from lmx.data.storyworld.teller import Teller
from lmx.data.storyworld.world import World, introduce_friend, reward

_FLYING = frozenset({"kite", "plane", "ball"})
_WHOLE = frozenset({"ball"})  # has no part that could break


def play(t: Teller, w: World) -> None:
    """Play with the toy until something happens to it; what is likely depends on the toy and the wind."""
    t.paragraph()
    t.tell("{hero} [3:took|2:grabbed|lifted] the {toy} and <play:toy>.")
    events = {
        "lost": "4:Then {he} put it down to [look at|follow|draw|feed]",
        "shared": "4:Soon <a trait>",
    }
    if t.slots["toy"] in _FLYING:
        events["stuck"] = (
            "12:Suddenly, a gust" if w.weather == "windy" else "4:Suddenly, it [slipped|flew] away and"
        )
    if t.slots["toy"] not in _WHOLE:
        events["broken"] = "4:But {he} [fell|tripped|stumbled] over"
    {"stuck": _stuck, "lost": _lost, "shared": _shared, "broken": _broken}[t.decide(**events)](t, w)


def _lost(t: Teller, w: World) -> None:
    t.tell("<sight>, and when {he} [came back|turned around|looked again], the {toy} was gone!")
    w.toy_with = "nobody"
    t.paragraph()
    t.tell('"<oh>! [3:Where is|2:I cannot find|I have lost|Who took] my {toy}!" {he} <moaned> <weakly>.')
    t.tell(
        """{He} [looked|searched|peeked] <spot>, but [found|saw] only <a odd> <trifle>.|
        {He} asked the <neighbor>, who had only seen <a mood> <creature:place>.|
        {He} was <sad> and [looked|searched|peeked] <spot> and <spot>. Nothing!"""
    )
    helper = t.decide(
        stranger="4:A <stranger@stranger> with <a odd> <trifle> <said>,",
        animal="3:Then <a mood> <creature:place@beast> [showed|led] {him} the way:",
        alone="3:Then {he} [2:remembered|thought hard]:",
    )
    t.tell('"[It is|I saw it] <spot@nook>!"' if helper == "stranger" else "<spot@nook>!")
    t.paragraph()
    t.tell(
        "There, {nook}, [lay|was] the {toy}[.|, a little [dirty|wet|dusty|bent].| [beside|under] <a odd> "
        "<trifle>.]"
    )
    w.toy_with = "hero"
    if helper == "alone":
        t.tell('"<yay>!" {he} <said> and [hugged|kissed|shook|held up] the {toy}.')
        w.lesson = "care"
    else:
        t.know(helper=f"the {t.slots['stranger' if helper == 'stranger' else 'beast']}")
        reward(t, w)
        w.lesson = "help"


def _broken(t: Teller, w: World) -> None:
    t.tell(
        "<a odd> <noun:place>. [Crack|Snap|Crash|Pop]! The <part:toy@part> of the {toy} was "
        "[2:broken|2:off|bent|torn]."
    )
    w.toy_with = "hero"
    t.paragraph()
    t.tell(
        """"<oh>!" {he} <moaned> <weakly>.|{hero} was <sad> and sat down <spot>.|
        {hero} was <sad> and wiped {his} [eyes|nose|face] with the {wear_look} {wear}."""
    )
    t.tell("{He} [carried|took|brought] it to")
    if t.decide(kin="4:{elder}.", neighbor="3:the") == "kin":
        t.know(helper=t.slots["elder"])
    else:
        t.tell("<neighbor@neighbor>.")
        t.know(helper=f"the {t.slots['neighbor']}")
    t.tell(
        """"[We need|Let us use|Get me] <mend:part@mend> and <a odd> <trifle>!" <said> {helper} <warmly>."""
    )
    t.tell(
        """{hero} held <a odd> [lamp|candle|ruler|brush|cloth], and {helper} [worked|hummed|sang|whistled]
        <warmly>.|
        They [worked|sat] [together|side by side|at <a odd> table] and [talked|laughed|sang] about <count>
        <mood> <creature>s.|
        They [cleaned|measured|dried] the {part} and put on some <color> {mend}."""
    )
    t.tell("<soon>, the {part} was [3:fixed|2:strong again|as good as new|better than before].")
    t.paragraph()
    reward(t, w)
    t.tell("Then {he} took the {toy} and <play:toy>.")
    w.lesson = "repair"


def _stuck(t: Teller, w: World) -> None:
    if w.weather == "windy":
        t.tell("[caught it|took it|carried it off], and it")
    t.tell("[2:landed|got stuck|ended up] on <a odd> <perch@perch>.")
    w.toy_with = "nobody"
    t.paragraph()
    t.tell(
        """"<oh>! My {toy} is [stuck|up there|too high]!" {he} <moaned> <weakly>.|
        {hero} was <sad>. The {toy} [hung|sat] up there next to <a mood> [crow|owl|pigeon|gull]."""
    )
    t.tell(
        """{He} [jumped|stretched|climbed], but [only scared <a mood> <creature:place>|hurt {his} <limb>|lost
        {his} {wear}].|
        {He} threw <a odd> <trifle>, but [2:missed|hit <a mood> <creature:place>|it got stuck, too].|
        {He} [shook|pushed|kicked] the {perch}, but down came only <a odd> <trifle>."""
    )
    helper = t.decide(
        tall="4:The <neighbor@neighbor> came by with <a odd> [ladder|pole|rope|rake] and [reached|climbed] "
        "up.",
        bird="3:Then <a mood> [crow|parrot|gull|magpie] flew up and [pulled|pecked|tugged] [hard|twice|at "
        "it].",
        kin="3:So {he} called {elder}, who [lifted {him} up|brought a ladder|climbed up|used a broom].",
    )
    t.paragraph()
    t.tell("<soon>, the {toy} [was free|came down|fell down|slid down][2:.|, and <a odd> <trifle> with it.]")
    w.toy_with = "hero"
    t.know(
        helper={"tall": f"the {t.slots.get('neighbor')}", "bird": "the bird", "kin": t.slots["elder"]}[helper]
    )
    reward(t, w)
    w.lesson = "help"


def _shared(t: Teller, w: World) -> None:
    t.tell(
        """[boy|girl|child] with <a odd> <trifle@treasure> [came up|stopped|stood nearby] and <said>, "[Can I
        play, too|May I have a turn|Is that {toy} yours]?" It was <friend:hero@friend> from the <landmark>."""
    )
    introduce_friend(t)
    answer = t.decide(
        no='4:"[No way|Never|Go away|Not now]!" {hero} [said|cried|shouted|snapped] and [turned away|held '
        "it tight|hid it <spot>].",
        yes='3:"[Yes|Of course|Sure|Why not]!" {hero} <said> <warmly> and [let go|gave up {his} turn|held '
        "it out].",
    )
    t.paragraph()
    if answer == "no":
        t.tell("{friend} was <sad> and [played with|looked at|held] the {treasure}.")
        t.tell("{hero} [played|went on] alone and felt <sad>.")
        t.tell(
            """{He} thought of {elder}, <ran> over and <said> <warmly>, "[I am sorry|Let us share|Come and
            play|Here, take it]!\""""
        )
    holder = t.decide(friend="{friend} took the {toy} and", hero="Together they took the {toy} and")
    w.toy_with = holder
    t.tell("<play:toy>.")
    t.tell(
        """{friend} was <glad>, and {hero} <smiled>.|
        Then they [sat|rested] <spot> and [talked|laughed] about <count> <mood> <creature>s.|
        "[This|It|That] is <fine>!" <said> {friend} and <smiled>."""
    )
    w.lesson = "share"
