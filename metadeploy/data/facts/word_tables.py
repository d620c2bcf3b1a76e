"""Tables that no package has: opposites, words for the two sexes, kinds of things."""

from __future__ import annotations

from typing import Final

__all__ = ["GENDERS", "KINDS", "OPPOSITES", "UNWANTED"]

#: Opposites: any word left of the bar with any word right of it, both ways.
OPPOSITES: Final = """
hot | cold/cool; warm | cool/cold; big/large | small/little; huge | tiny; tall | short; long | short; high | low
old | young/new; new | old; fast/quick | slow; hard | easy/soft; difficult | easy; happy | sad/unhappy
good | bad/evil; rich/wealthy | poor; strong | weak; heavy | light; dark | light/bright; thick | thin
fat | thin/skinny/slim; wide | narrow; deep | shallow; loud | quiet/soft; noisy | quiet/silent; full | empty
open | closed/shut; wet | dry; clean | dirty; sharp | dull/blunt; smooth | rough; sweet | sour/bitter
right | wrong/left; true | false; early | late; first | last; before | after; up | down; in | out; on | off
over | under; above | below; inside | outside; front | back; top | bottom; left | right; north | south; east | west
day | night; summer | winter; black | white; yes | no; always | never; everything | nothing; everyone | nobody
all | none; many | few; more | less/fewer; most | least; near | far; here | there; love | hate; friend | enemy
war | peace; life | death; birth | death; begin/start | end/stop/finish; push | pull; give | take/receive
buy | sell; win | lose; come | go; arrive | leave/depart; remember | forget; find | lose; laugh | cry; teach | learn
lend | borrow; build | destroy/demolish; rise | fall/set; increase | decrease; accept | reject/refuse
attack | defend; appear | disappear/vanish; float | sink; succeed | fail; success | failure; victory | defeat
question | answer; problem | solution; cause | effect; beautiful | ugly; pretty | ugly
clever/smart | stupid/foolish/dumb; wise | foolish/unwise; brave | cowardly; generous | stingy/selfish/greedy
kind | cruel/unkind/mean; polite | rude/impolite; honest | dishonest; lazy | hardworking/active/industrious
safe | dangerous/unsafe; dangerous | safe; healthy | sick/ill/unhealthy; alive | dead; asleep | awake
present | absent; past | future; public | private; common | rare/uncommon; ancient | modern
natural | artificial/unnatural; simple | complex/complicated; possible | impossible; cheap | expensive
expensive | cheap/inexpensive; guilty | innocent; lucky | unlucky; patient | impatient; visible | invisible
legal | illegal; regular | irregular; perfect | imperfect; mature | immature; maximum | minimum; majority | minority
optimist | pessimist; optimistic | pessimistic; positive | negative; plus | minus; add | subtract; multiply | divide
internal | external; interior | exterior; import | export; include | exclude; arrival | departure; entrance | exit
male | female; sunrise | sunset; dawn | dusk; heaven | hell; angel | devil/demon; hero | villain/coward
master | servant/slave; teacher | student/pupil; parent | child; ally | enemy; winner | loser; guest | host
predator | prey; supply | demand; profit | loss; asset | liability; credit | debit; horizontal | vertical
convex | concave; transparent | opaque; fresh | stale/rotten; raw | cooked; ripe | unripe; tight | loose
straight | crooked/curved/bent; solid | liquid/hollow; permanent | temporary; fixed | variable/movable
flexible | rigid/inflexible/stiff; active | passive/inactive; aggressive | passive/peaceful/gentle
calm | agitated/nervous/excited; tame | wild; humble | proud/arrogant; modest | boastful/arrogant/immodest
shy | outgoing/bold/confident; bold | timid/shy; cautious | reckless/careless; careful | careless; useful | useless
hopeful | hopeless; harmful | harmless; abundant | scarce; scarce | abundant/plentiful; genuine | fake
real | fake/imaginary/unreal; urban | rural; domestic | foreign/wild; foreign | domestic/native; major | minor
senior | junior; superior | inferior; former | latter; vague | clear/precise/specific; obscure | clear/obvious
explicit | implicit; literal | figurative; abstract | concrete; theory | practice; synonym | antonym
prefix | suffix; prologue | epilogue; vowel | consonant; singular | plural; noon | midnight
expand | contract/shrink; inhale | exhale; freeze | melt/thaw/boil; ascend | descend; advance | retreat
approve | disapprove/reject; agree | disagree; praise | criticize/blame; reward | punish/punishment
encourage | discourage; allow/permit | forbid/prohibit; connect | disconnect; assemble | disassemble/dismantle
conceal | reveal; hide | show/reveal/seek; hire | fire; load | unload; lock | unlock; pack | unpack; tie | untie
strengthen | weaken; lengthen | shorten; widen | narrow; heat | cool; sit | stand; whisper | shout
mend/repair | break; save | spend/waste; absorb | emit/reflect; attract | repel; inflate | deflate
ignite | extinguish; deny | admit/confirm/affirm; zenith | nadir; altruism | egoism/selfishness
frugal | extravagant/wasteful; verbose | concise/terse; taciturn | talkative; nocturnal | diurnal
benevolent | malevolent; benign | malignant; exogenous | endogenous; lucid | confused/unclear; mobile | immobile
ephemeral | eternal/permanent/lasting; homogeneous | heterogeneous; hypothermia | hyperthermia; acid | base/alkali
introvert | extrovert; amateur | professional; novice | expert; deficit | surplus; recession | boom; ebb | flow
feast | famine; drought | flood; blessing | curse; pride | shame/humility; courage | cowardice/fear; joy | sorrow
wisdom | folly/foolishness; knowledge | ignorance; order | chaos/disorder; freedom | slavery/captivity
wealth | poverty; strength | weakness; truth | lie/falsehood; beauty | ugliness; virtue | vice; chaos | order
hostile | friendly; gloomy | cheerful/bright; cheerful | gloomy/sad; anxious | calm/relaxed; tense | relaxed
sober | drunk; civilian | soldier/military; land | sea; uphill | downhill; upstairs | downstairs
upstream | downstream; clockwise | counterclockwise/anticlockwise; odd | even; prime | composite
numerator | denominator
"""

#: Male and female in pairs; several words of one sex are parted by a stroke.
GENDERS: Final = """
king queen; prince princess; man woman; boy girl; father mother; son daughter; brother sister; husband wife
uncle aunt; grandfather grandmother; grandson granddaughter; nephew niece; actor actress; waiter waitress
god goddess; lion lioness; tiger tigress; bull cow; rooster/cock hen; ram ewe; stallion mare; gander goose
drake duck; fox vixen; stag/buck doe; boar sow; duke duchess; emperor empress; count countess; baron baroness
lord lady; sir madam/ma'am; monk nun; wizard/warlock witch; hero heroine; host hostess; heir heiress; widower widow
groom/bridegroom bride; steward stewardess; gentleman lady; policeman policewoman; salesman saleswoman
businessman businesswoman; chairman chairwoman; landlord landlady; master mistress; abbot abbess
marquis/marquess marchioness; stepfather stepmother; stepson stepdaughter; fireman firewoman
congressman congresswoman; sultan sultana; tsar/czar tsarina/czarina; sorcerer sorceress; priest priestess
enchanter enchantress; governor governess; colt filly; dad mom/mum; daddy mommy/mummy; he she; him her
his hers/her; male female; guy gal; grandpa grandma; godfather godmother; fiancé fiancée; masseur masseuse
maharaja maharani; viscount viscountess; earl countess; peacock peahen; billy-goat nanny-goat
spokesman spokeswoman; headmaster headmistress; murderer murderess; poet poetess; shepherd shepherdess
executor executrix; aviator aviatrix; bachelor spinster/bachelorette
"""

#: Kinds of things, and things of each kind from well known to little known; some things are of two kinds.
#: A star marks kinds whose things take no article.
KINDS: Final = """
fish: salmon tuna shark trout cod goldfish herring eel carp pike catfish halibut sardine anchovy perch mackerel
  swordfish piranha barracuda haddock tilapia sturgeon grouper minnow turbot gar loach tench bream wrasse
bird: eagle parrot owl penguin robin sparrow crow swan pigeon hawk ostrich flamingo peacock seagull woodpecker
  hummingbird pelican falcon raven stork heron magpie toucan finch lark puffin kestrel osprey nightingale cormorant
  kiwi plover whimbrel jackdaw lapwing
insect: ant bee butterfly mosquito beetle grasshopper fly wasp ladybug dragonfly cricket moth cockroach termite
  firefly locust hornet mantis aphid earwig weevil mayfly katydid
mammal: dog cat horse elephant whale lion tiger bear dolphin monkey cow rabbit kangaroo bat giraffe zebra wolf deer
  mouse squirrel otter beaver koala hedgehog platypus moose walrus badger armadillo lemur tapir okapi dugong
  pangolin shrew vole aardvark
reptile: snake lizard crocodile turtle alligator tortoise iguana chameleon gecko python cobra viper skink tuatara
  anaconda rattlesnake
amphibian: frog toad salamander newt axolotl caecilian
fruit: apple banana orange grape strawberry pear peach mango cherry pineapple watermelon lemon plum kiwi blueberry
  raspberry apricot papaya fig pomegranate lime melon tangerine guava lychee persimmon quince kumquat nectarine
  durian rambutan jackfruit cantaloupe mulberry
vegetable: carrot broccoli spinach cabbage lettuce onion potato celery cauliflower asparagus turnip radish beet kale
  leek zucchini parsnip artichoke kohlrabi rutabaga chard
flower/plant/flowering plant: rose tulip daisy sunflower lily orchid daffodil violet carnation marigold iris peony
  chrysanthemum dandelion begonia hyacinth geranium dahlia petunia snapdragon zinnia ranunculus crocus
tree: oak maple pine willow birch palm elm cedar spruce sequoia fir ash beech sycamore poplar hemlock larch baobab
  eucalyptus hornbeam alder
musical instrument/instrument: piano guitar violin drum flute trumpet cello harp saxophone clarinet trombone banjo
  accordion tuba oboe harmonica mandolin ukulele bassoon viola xylophone sitar lute zither dulcimer balalaika
sport/game *: football basketball tennis soccer baseball golf hockey volleyball rugby cricket swimming boxing
  badminton wrestling lacrosse polo fencing curling squash judo
tool: hammer screwdriver saw wrench drill pliers shovel axe chisel rake spade pickaxe crowbar mallet sickle awl adze
  scythe
metal/element/chemical element *: iron gold silver copper aluminum tin lead zinc nickel platinum titanium uranium
  tungsten cobalt
gas/element/chemical element *: oxygen hydrogen nitrogen helium neon argon krypton xenon
gemstone/gem/precious stone/stone/mineral/crystal: diamond ruby emerald sapphire opal topaz amethyst garnet jade
  turquoise aquamarine peridot lapis-lazuli
spice/herb *: cinnamon pepper ginger cumin turmeric nutmeg basil oregano saffron parsley cloves paprika thyme rosemary
  cardamom coriander tarragon fenugreek
drink/beverage *: coffee tea milk juice beer wine lemonade vodka whiskey cider champagne rum soda cocoa gin tequila
  sake kombucha mead kefir
dance: ballet tango waltz salsa polka flamenco samba foxtrot rumba mazurka quickstep minuet
clothing/garment/item of clothing/piece of clothing: shirt jacket skirt dress sweater coat sock scarf blouse vest kimono
  kilt cardigan poncho sari toga tunic
furniture: chair table sofa bed desk bookcase cupboard dresser wardrobe armchair ottoman chaise credenza
vehicle: car bus truck bicycle motorcycle van train tractor taxi scooter ambulance tricycle rickshaw
color/colour *: red blue green yellow purple pink orange brown black white gray violet crimson turquoise magenta beige
  maroon cyan indigo teal mauve ochre vermilion chartreuse taupe
shape: circle square triangle rectangle pentagon hexagon octagon oval rhombus trapezoid parallelogram heptagon
planet *: Mars Venus Jupiter Saturn Mercury Neptune Uranus Earth
language *: French Spanish English German Italian Latin Russian Hindi Swahili Esperanto Basque Tagalog Quechua
continent *: Africa Asia Europe Antarctica
organ/body part/part of the body: heart lung liver kidney brain stomach pancreas spleen
grain/cereal *: wheat rice barley oats rye millet sorghum
dog/breed of dog/dog breed/breed: poodle labrador dachshund bulldog beagle chihuahua rottweiler dalmatian greyhound
  whippet samoyed weimaraner
cheese *: cheddar brie mozzarella parmesan gouda camembert feta gorgonzola ricotta emmental manchego pecorino
shellfish/crustacean: crab lobster shrimp prawn crayfish krill
disease/infection/illness/viral infection/infectious disease *: measles malaria influenza tuberculosis cholera
  smallpox mumps typhoid rubella leprosy
weapon: sword gun rifle spear dagger pistol cannon crossbow musket halberd rapier scimitar
bread/food: baguette bagel pita naan ciabatta brioche focaccia
pasta *: spaghetti macaroni lasagna penne ravioli linguine fettuccine tagliatelle orzo
hat/headgear/cap/headwear: beret fedora sombrero turban bowler fez
currency/money: dollar euro yen pound peso rupee krona
religion/faith *: Christianity Islam Buddhism Hinduism Judaism Sikhism Jainism Zoroastrianism Taoism
"""

#: Words of the vocabulary that questions omit: indecent words, names, errors of the lexicon, and words whose forms
#: depend on their part of speech.
UNWANTED: Final = """
ass asshole bastard bitch bugger buttock castrate chink cock cocksucker crap cunt dick dildo dyke fag faggot fart
fetish fuck fucker gook homo hooker hump jerk jock kike masturbate molest molester motherfucker nazi negro nigga
nigger orgy penis pervert piss porn pornographer prick prostitute pussy rape rapist retard screw sex shag shit
slut snatch sodomize spic suck thong tit tranny turd vagina wank wanker wetback whore
bill chile china hun jack japan jimmy john jordan mac nick peter rob turkey
base bogie bootie choice comer cross damned forte game gay ill instal less mine numb okay other qua regale wrong
"""
