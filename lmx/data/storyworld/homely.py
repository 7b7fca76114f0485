"""What happens at home: baking, a garden, a gift, something broken and the truth, a hurt animal."""

from __future__ import annotations

from lmx.data.storyworld.teller import Teller
from lmx.data.storyworld.world import World, somebody


def bake(t: Teller, w: World) -> None:
    """Bake a cake for somebody, though something is missing."""
    t.tell("<a flavor> <pastry@pastry> for")
    somebody(t)
    t.tell(
        """{He} [washed|took] <a odd> [bowl|pot|pan] and [mixed|stirred] <treat> and <fruit> juice.|
        {He} put on <a odd> apron and read <a odd> cook book."""
    )
    t.tell("But the <odd> jar of <treat@treat> was [empty|gone|broken]!")
    t.paragraph()
    t.tell('"<oh>! [Where is the {treat}|I need {treat}|No {treat}, no {pastry}]!" {he} <moaned> <weakly>.')
    source = t.decide(
        lent="4:So {he} <ran> to the <neighbor@lender>, who [gave|lent] {him} some {treat} and <a odd> "
        "<trifle>.",
        traded="3:At the market, {he} swapped the {keep} for <number> [bags|cups|jars] of {treat}.",
        found="3:{He} looked [under|behind|next to] the <odd> [cupboard|shelf|sink|stairs] and found "
        "{treat} and <a odd> <trifle>.",
    )
    if source == "traded":
        w.keepsake = False
    t.tell(
        """5:The {pastry} [rose|grew] and smelled <fine>.|
        3:The {pastry} was [burned|black|flat] at the edge, so {he} hid it under <color>
        [cream|icing|berries|candles]."""
    )
    t.paragraph()
    t.tell('{Guest} [tried it|took a bite|ate <number> slices] and <smiled>. "<yay>! It is <fine>!"')
    if source == "lent":
        t.tell(
            "{hero} [brought|took] a slice to the {lender}, too, [on|with] <a odd> [plate|leaf|napkin|card]."
        )
    else:
        t.tell(
            "They [ate|sat] <near> the <odd> [window|stove|door|fence] and talked about <count> <mood> "
            "<creature>s."
        )
    w.lesson = "effort"


def grow(t: Teller, w: World) -> None:
    """Find a seed, plant it, wait, save it from trouble, share what grows."""
    t.tell('<a odd> seed <near> <a odd> <trifle>. "It is <a seed@seed> seed," {elder} <said> <warmly>.')
    t.tell(
        "{He} put it in <a odd> pot <near> <a odd> [fence|shed|gate|wall] and [talked|sang] to it <warmly>."
    )
    t.paragraph()
    t.tell("<soon>, there was <a odd> [leaf|sprout|bud], and it grew until")
    trouble = t.decide(
        dry="3:it was [dry|thirsty|yellow] after <number> hot days.",
        pest="4:<count> <mood>",
        storm="3:a storm [bent|shook|broke] it.",
    )
    if trouble == "pest":
        t.tell("<pest@pest> ate <number> leaves.")
    t.tell('"<oh>, my {seed}!" {he} <moaned> <weakly>.')
    if trouble == "dry":
        t.tell("{He} [carried|brought] water from the <landmark> in <a odd> [bucket|can|cup|bottle].")
    elif trouble == "pest":
        t.tell(
            "{He} built [a fence|a scarecrow|a wall] out of <odd> <trifle>s, and the {pest} [ran off|went "
            "away|gave up]."
        )
    else:
        t.tell("{He} tied it to <a odd> [stick|pole|broom] with <a color> [ribbon|string|thread|sock].")
    t.paragraph()
    t.tell("In [summer|autumn|the end], the {seed} was as [tall|big] as <a mood> <creature>.")
    t.tell(
        """{He} gave [some|half] of it to the <neighbor> and [some|half] to the <neighbor>.|
        {He} kept <number> seeds in <a odd> [box|jar|bag|tin] with <a odd> <trifle>.|
        The <neighbor> came to see it and <said>, "It is <fine>!\""""
    )
    w.lesson = "patience"


def give(t: Teller, w: World) -> None:
    """Make a gift in secret, almost be found out, give it."""
    t.tell("to make <a odd> <craft@craft> for")
    somebody(t)
    t.tell(
        "{He} [took|found|bought|borrowed] <color> <stuff:craft@stuff>, <a odd> <trifle> and <a color> "
        "[thread|pen|brush]."
    )
    t.paragraph()
    t.tell(
        """[Suddenly|On <day>|At night|At dinner], {guest} [knocked|came in|called], and {hero} hid it under
        <a odd> <trifle>.|
        "Why is your <limb> full of {stuff}?" "[I am looking for|I fell over] <a odd> <trifle>!" {he}
        <moaned> <weakly>."""
    )
    t.paragraph()
    t.tell("<soon>, {hero} gave {guest} the {craft} in <a odd> [cloth|bag|box] with <a odd> <trifle>.")
    t.tell('{Guest} <smiled> and was <glad>. "<yay>! It is <fine>!"')
    t.tell("They put it next to <a odd> <trifle> and [ate|shared|had] <food> and <food>.")
    w.lesson = "gift"


def confess(t: Teller, w: World) -> None:
    """Break something dear to the family; hide it or blame another; tell the truth."""
    t.tell("<a odd> [table|shelf|chair|stove] and fell over <a odd> <trifle>.")
    t.tell("[Crash|Smash|Bang]! {Elder}'s <odd> <dear@dear> [broke|burst] into <number> pieces.")
    t.paragraph()
    t.tell('"<oh>! [What have I done|That was new|What will {elder} say]!" {he} <moaned> <weakly>.')
    first = t.decide(
        hide="5:{He} hid the pieces under <a odd>",
        blame="3:{hero} was <scared> and said that <a mood> <creature@blamed> did it.",
    )
    if first == "hide":
        t.tell(
            "[rug|box|pillow|basket]. But at [dinner|lunch|tea], {he} felt <sad> and did not touch the "
            "<food>."
        )
    else:
        t.tell('"[Was it|Do you mean] <a color> {blamed}?" {elder} <moaned> <weakly>, and {hero} felt <sad>.')
    t.paragraph()
    t.tell('"{call}, I [broke|dropped] the {dear}!" {he} <moaned> <weakly>.')
    t.tell(
        """{Elder} <smiled>. "[I broke one, too|It was only a {dear}|The truth is <fine>]!" {elder_he} <said>
        <warmly>."""
    )
    t.tell(
        """They made <a odd> <trifle> and <a odd> <trifle> out of the pieces.|
        They [glued|fixed] it with <color> [glue|clay|tape], and it looked like <a odd> <trifle>.|
        The next day, {hero} [bought|made|painted] <a odd> one."""
    )
    w.lesson = "truth"


def rescue(t: Teller, w: World) -> None:
    """Find a hurt animal, nurse it, let it go."""
    t.tell("[a cry|a sound|a voice|a sigh] <near> the <landmark>. There lay <a mood> <patient@patient>")
    t.tell("with a [hurt|broken|swollen|bent] <hurt:patient@hurt>.")
    t.tell("{He} <ran> home with it in {his} {wear_look} {wear}.")
    t.paragraph()
    t.tell(
        """{Elder} tied up the {hurt} with <a odd> [cloth|ribbon|string|sock|scarf|towel|leaf|belt]. "It
        needs [rest|sleep|love|time] and <eats:patient@feed>!" {elder_he} <said> <warmly>."""
    )
    t.tell(
        "{hero} made it a bed out of <a odd> [box|basket|pot|bag|hat|shoe|drawer|bucket], <color> "
        "[wool|straw|leaves|paper] and <odd> <trinket>s and called it <pet_name@pet_name>."
    )
    t.paragraph()
    t.tell("After <number> [weeks|days], the {hurt} was [well|healed|strong].")
    fate = t.decide(
        gone="4:{pet_name} looked back once and [ran|went|slipped] off <near> the <landmark>.",
        stays="3:But {pet_name} [came back|only yawned|stayed] and [slept|sat] on <a odd>",
    )
    if fate == "stays":
        t.tell("[bed|shoe|shoulder|pillow|chair] and was <glad>.")
    else:
        t.tell(
            "But every [spring|<day>|evening|winter] {he} found <a odd> <trinket> or <a odd> <trinket> at "
            "the door."
        )
    w.lesson = "kindness"
