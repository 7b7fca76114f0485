"""What happens to two who go out together: a race, a storm, a fear, somebody new."""

from __future__ import annotations

from lmx.data.storyworld.teller import Teller
from lmx.data.storyworld.world import World, introduce_friend, reward


def explore(t: Teller, w: World) -> None:
    """Go on with a friend or a pet; what is likely depends on who it is and on the sky."""
    t.know(mate=t.slots["friend"] if w.company == "friend" else t.slots["pet_name"])
    t.paragraph()
    events = {
        "storm": {"cloudy": "12:", "cold": "5:"}.get(w.weather, "2:") + "But then the sky turned",
        "fear": "5:Then they [came to|saw|stood before]",
    }
    if w.company == "friend":
        events["race"] = '5:"Let us [race|run]'
    else:
        events["newcomer"] = "6:Suddenly {mate} <sound:pet>."
    {"race": _race, "storm": _storm, "fear": _fear, "newcomer": _newcomer}[t.decide(**events)](t, w)


def _race(t: Teller, w: World) -> None:
    t.tell('to the <odd> <noun:place@goal>!" <said> [{hero}|{friend}].')
    t.tell(
        """{friend} [was faster|led|was ahead], but {hero} [was close behind|took a shortcut <spot>|did not
        stop].|
        {hero} [was ahead|led|was first] and [passed|waved to|jumped over] <sight>.|
        They <ran> past <sight>, <sight> and <sight>."""
    )
    t.tell(
        "But then {friend} [fell|tripped|stumbled] over <a odd> <trifle> and hurt {friend_his} <limb@limb>."
    )
    t.paragraph()
    if t.decide(stop="6:{hero} [stopped|turned back] at once.", win="3:{hero} <ran> on and won.") == "win":
        t.tell(
            "But only <a mood> <creature:place> [saw|cheered], and {he} felt <sad>. {He} <ran> back to "
            "{friend}."
        )
    t.tell(
        """"Does your {limb} hurt?" {he} <said> and tied <a odd> [cloth|sock|ribbon|scarf] around it.|
        {He} put <a odd> [leaf|cloth|sock|scarf] on the {limb} and [talked|joked|sang] about <count> <mood>
        <creature>s.|
        "[Lean on me|Take my {hand}|Hold on to me]!" {he} <said> <warmly>."""
    )
    t.tell("<soon>, they [reached|touched|got to] the {goal} [together|side by side|arm in arm].")
    t.tell(
        """"[We both won|You are <a fine> friend|Next time I will win]!" <said> {friend} <warmly>.|
        {friend} was <glad> and gave {hero} <a odd> <trifle>.|The prize was <a odd> <trifle>, and they shared
        it."""
    )
    w.lesson = "friendship"


def _storm(t: Teller, w: World) -> None:
    t.tell("[dark|black|gray|green], and [rain fell|thunder rolled|the wind howled|hail came down].")
    t.tell(
        '"[Quick|Hurry|Run]!" <said> {hero}. They <ran> past <a odd> <noun:place> and hid <shelter:place>.'
    )
    w.wet = True
    t.tell(
        """{mate} was <scared>. "[It is only noise|It will pass|Hold on]!" {hero} <said> <warmly>.|
        {hero} was <scared>, but {mate} [came close|stayed calm|kept {him} warm].|
        They were <scared> and thought of <food> and <food>."""
    )
    if w.food:
        w.food = False
        t.tell(
            "They [ate|shared] the {bite} and the {fruit} and [talked|sang|joked] about <count> <mood> "
            "<creature>s."
        )
    else:
        t.tell(
            "To pass the time, they [talked|sang|made up a song|joked] about <a mood> <creature>, <a odd> "
            "<trifle> and <food>."
        )
    t.paragraph()
    t.tell(
        "<soon>, <a color> [rainbow|sky|moon|cloud] hung [over|behind|above] the <landmark>, and in a "
        "puddle lay <a odd> <trifle>."
    )
    t.tell(
        """"[It is|That is] <fine>!" {he} <said> and <smiled>.|{mate} was <glad> and [ran|jumped] into every
        puddle.|
        On the <noun:place> sat <a mood> <creature:place>, as wet as they were."""
    )
    w.lesson = "storm"


def _fear(t: Teller, w: World) -> None:
    t.tell('a <fear:place@fear>. "I am <scared>," {hero} <moaned> <weakly>.')
    t.paragraph()
    if w.company == "friend":
        t.tell(
            """"[I was <scared>, too|Look at me|Take my {hand}]," <said> {mate} <warmly>. "Count to <number>
            and think of <count> <mood> <creature>s!\""""
        )
    else:
        t.tell(
            "{mate} <sound:pet> and went first. {hero} counted to <number> and thought of <count> <mood> "
            "<creature>s."
        )
    t.tell("Then {he} [held|grabbed|squeezed] the {keep} and took <a odd> step.")
    t.tell('"<yay>! The {fear} is [not so bad|only a {fear}|<fine>]!" {he} <said> <warmly>.')
    t.tell(
        """On the other side, they [found|saw] <a odd> <trifle>, <sight> and <sight>.|
        {hero} was <glad> and felt as [tall|strong|brave|big] as <a mood>
        [lion|giant|dragon|bear|tiger|horse|king|knight].|
        {mate} was <glad>, and they did it <number> times."""
    )
    w.lesson = "courage"


def _newcomer(t: Teller, w: World) -> None:
    t.tell(
        "There, <spot>, sat <friend:hero@friend>, who was new [at school|in town|next door] and looked <sad>."
    )
    introduce_friend(t)
    t.tell(
        """"[Hello|Hi|Good day]! I am {hero}, and this is {mate}," {he} <said> <warmly>.|
        {hero} was [shy|quiet] at first, but {mate} brought {friend_him} <a odd> <trifle>."""
    )
    t.paragraph()
    t.tell('"[I like to|I know how to|Let us] <hobby>!" <said> {friend}.')
    t.know(helper=t.slots["friend"])
    reward(t, w)
    t.tell(
        """They [built|made|drew] <a odd> [house|castle|boat|tower] out of <odd> <trifle>s.|
        Then they [threw|hid|rolled] <a odd> <trifle>, and {mate} [brought it back|ate it|sat on it].|
        {friend} [stroked|hugged] the {pet}, and {mate} <sound:pet>."""
    )
    t.tell('"[Come back|Let us play again] <when>!" {friend} <said> <warmly>.')
    w.lesson = "friendship"
