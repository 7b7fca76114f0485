"""The places of the story world: what stands, lives, frightens and gives shelter in each of them."""

from __future__ import annotations

_TALL = "[tall|steep|high|wobbly]"
_FIERCE = "[wild|loud|huge|mean|black]"
_GLOOMY = "[dark|deep|cold|strange|black]"

PLACES: dict[str, str] = {
    "place": "6:park|5:forest|5:beach|5:farm|4:meadow|4:lake|3:hill|3:playground|3:market|3:river",
    # things to hide or sit behind, under, next to
    "noun:park": "bench|bush|swing|gate|statue|hedge|lamp post|rose bed",
    "noun:forest": "log|fern|stump|rock|pine tree|nest|hut|brook",
    "noun:beach": "dune|towel|rowboat|rock|pier|sand castle|crate|palm tree",
    "noun:farm": "barn|cart|plow|well|haystack|fence|tractor|trough",
    "noun:meadow": "haystack|thorn bush|fence|molehill|birch|gate|brook|stone",
    "noun:lake": "dock|canoe|tent|reed|willow|boot|raft|boathouse",
    "noun:hill": "boulder|bush|wall|tower|signpost|cave|rock|bench",
    "noun:playground": "slide|seesaw|swing|sandbox|ladder|tire|wall|bench",
    "noun:market": "table|stall|barrel|cart|sack|crate|flower pot|tent",
    "noun:river": "bridge|log|mill|boat|willow|net|stone|raft",
    # who lives there
    "creature:park": "squirrel|pigeon|poodle|robin|duck|swan|sparrow|terrier",
    "creature:forest": "owl|bear|hedgehog|badger|snail|woodpecker|hare|squirrel",
    "creature:beach": "crab|gull|seal|lobster|dolphin|dog|turtle|pelican",
    "creature:farm": "pig|cow|rooster|donkey|hen|goat|horse|cat",
    "creature:meadow": "bee|hare|grasshopper|lizard|stork|lark|mole|cricket",
    "creature:lake": "frog|heron|turtle|swan|duck|cricket|otter|newt",
    "creature:hill": "goat|hawk|ram|lizard|eagle|donkey|raven|hare",
    "creature:playground": "sparrow|beetle|poodle|pigeon|cat|spider|terrier|magpie",
    "creature:market": "monkey|cat|parrot|donkey|pigeon|rooster|snake|camel",
    "creature:river": "beaver|otter|swan|toad|duck|pelican|kingfisher|rat",
    "spot": "[3:under|3:behind|3:beside|2:near|2:next to] <a odd> <noun:place>",
    "sight": "6:<a mood> <creature:place>|3:some <mood> <creature:place>s <doing> <a odd> <trifle>|"
    "2:the <neighbor> <doing> <a odd> <trifle>|3:<count> <odd> <trifle>s",
    # what is feared there
    "fear:park": f"{_TALL} slide|{_FIERCE} dog|{_GLOOMY} tunnel",
    "fear:forest": f"{_GLOOMY} cave|{_TALL} bridge|{_GLOOMY} shadow",
    "fear:beach": f"[huge|wild|cold|loud] wave|{_TALL} cliff|{_GLOOMY} cave",
    "fear:farm": f"{_FIERCE} horse|{_FIERCE} bull|{_GLOOMY} barn",
    "fear:meadow": f"{_FIERCE} bull|[wide|cold|deep|wild] brook|{_GLOOMY} well",
    "fear:lake": f"{_TALL} diving board|[big|wobbly|narrow|strange] boat|[wide|cold|deep|wild] pool",
    "fear:hill": f"{_TALL} path|{_TALL} tower|{_GLOOMY} gorge",
    "fear:playground": f"{_TALL} slide|{_TALL} swing|{_TALL} climbing wall",
    "fear:market": f"{_FIERCE} parrot|{_TALL} staircase|{_GLOOMY} cellar",
    "fear:river": f"{_TALL} bridge|[huge|wild|cold|loud] waterfall|{_FIERCE} swan",
    # what a kite hangs on
    "perch": "4:oak|3:pine tree|3:willow|3:roof|2:tower|2:lamp post|flagpole|chimney",
    # where the rain does not reach
    "shelter:park": "in <a odd> pavilion|under <a odd> <tree>|under <a odd> arch",
    "shelter:forest": "under <a odd> <tree>|in <a odd> cave|in <a odd> hut",
    "shelter:beach": "in <a odd> cabin|in <a odd> tent|under <a odd> boat",
    "shelter:farm": "in <a odd> barn|under <a odd> wagon|in <a odd> stable",
    "shelter:meadow": "in <a odd> hut|in <a odd> haystack|under <a odd> <tree>",
    "shelter:lake": "in <a odd> boathouse|in <a odd> tent|under <a odd> <tree>",
    "shelter:hill": "in <a odd> tower|in <a odd> cave|under <a odd> ledge",
    "shelter:playground": "in <a odd> fort|under <a odd> slide|in <a odd> shed",
    "shelter:market": "under <a odd> stall|under <a odd> awning|in <a odd> shop",
    "shelter:river": "under <a odd> bridge|in <a odd> hut|under <a odd> <tree>",
}
