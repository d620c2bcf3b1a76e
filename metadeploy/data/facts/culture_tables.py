"""Tables of works and their makers, and of landmarks and their countries."""

from __future__ import annotations

from typing import Final

__all__ = ["LANDMARKS", "WORKS"]

#: Accepted names of a person, what he or she did, and to what.
WORKS: Final = """
Shakespeare: wrote the play: Hamlet; Romeo and Juliet; Macbeth; Othello; King Lear; The Tempest; Twelfth Night
Dickens: wrote the novel: Oliver Twist; A Tale of Two Cities; Great Expectations; David Copperfield; Bleak House
Austen: wrote the novel: Pride and Prejudice; Emma; Sense and Sensibility; Persuasion; Mansfield Park
Orwell: wrote: Animal Farm; Nineteen Eighty-Four; Homage to Catalonia
Tolkien: wrote: The Hobbit; The Lord of the Rings; The Silmarillion
Rowling: wrote: Harry Potter and the Philosopher's Stone; The Casual Vacancy
Twain/Samuel Clemens/Clemens: wrote the novel: The Adventures of Tom Sawyer; Adventures of Huckleberry Finn; \
The Prince and the Pauper
Tolstoy: wrote the novel: War and Peace; Anna Karenina; Resurrection
Dostoevsky/Dostoyevsky: wrote the novel: Crime and Punishment; The Brothers Karamazov; The Idiot; Demons
Chekhov: wrote the play: The Cherry Orchard; Uncle Vanya; The Seagull; Three Sisters
Hemingway: wrote: The Old Man and the Sea; A Farewell to Arms; For Whom the Bell Tolls; The Sun Also Rises
Fitzgerald: wrote the novel: The Great Gatsby; Tender Is the Night
Steinbeck: wrote the novel: The Grapes of Wrath; Of Mice and Men; East of Eden
Melville: wrote: Moby-Dick; Bartleby, the Scrivener; Billy Budd
Hugo: wrote the novel: Les Misérables; The Hunchback of Notre-Dame; Toilers of the Sea
Dumas: wrote the novel: The Three Musketeers; The Count of Monte Cristo
Verne: wrote the novel: Twenty Thousand Leagues Under the Seas; Around the World in Eighty Days; \
Journey to the Center of the Earth; The Mysterious Island
Flaubert: wrote the novel: Madame Bovary; Sentimental Education
Camus: wrote: The Stranger; The Plague; The Myth of Sisyphus
Proust: wrote: In Search of Lost Time
Cervantes: wrote the novel: Don Quixote
Homer: wrote the epic: The Odyssey; The Iliad
Virgil/Vergil: wrote the epic: The Aeneid
Dante/Alighieri: wrote: The Divine Comedy; La Vita Nuova
Goethe: wrote: Faust; The Sorrows of Young Werther
Kafka: wrote: The Metamorphosis; The Trial; The Castle
Mann: wrote the novel: The Magic Mountain; Buddenbrooks; Doctor Faustus
Joyce: wrote: Ulysses; Dubliners; Finnegans Wake
Woolf: wrote the novel: Mrs Dalloway; To the Lighthouse; Orlando
Stoker: wrote the novel: Dracula
Mary Shelley/Shelley: wrote the novel: Frankenstein; The Last Man
Stevenson: wrote: Treasure Island; Strange Case of Dr Jekyll and Mr Hyde; Kidnapped
Wells: wrote the novel: The War of the Worlds; The Time Machine; The Invisible Man
Huxley: wrote the novel: Brave New World; Point Counter Point
Salinger: wrote: The Catcher in the Rye; Franny and Zooey
Harper Lee/Lee: wrote the novel: To Kill a Mockingbird
Carroll/Dodgson: wrote: Alice's Adventures in Wonderland; Through the Looking-Glass
Wilde: wrote: The Picture of Dorian Gray; The Importance of Being Earnest; Salome
Charlotte Brontë/Brontë: wrote the novel: Jane Eyre; Villette
Emily Brontë/Brontë: wrote the novel: Wuthering Heights
Defoe: wrote the novel: Robinson Crusoe; Moll Flanders
Swift: wrote: Gulliver's Travels; A Modest Proposal
Darwin: wrote: On the Origin of Species; The Descent of Man
Marx/Engels: wrote: The Communist Manifesto
Machiavelli: wrote: The Prince
Plato: wrote: The Republic; Symposium
Ibsen: wrote the play: A Doll's House; Peer Gynt; Hedda Gabler
Sophocles: wrote the play: Oedipus Rex; Antigone
Christie: wrote the novel: Murder on the Orient Express; And Then There Were None
Conan Doyle/Doyle: wrote the novel: The Hound of the Baskervilles; A Study in Scarlet
Bradbury: wrote: Fahrenheit 451; The Martian Chronicles
Asimov: wrote: Foundation; I, Robot
García Márquez/Márquez: wrote the novel: One Hundred Years of Solitude; Love in the Time of Cholera
Achebe: wrote the novel: Things Fall Apart; Arrow of God
Nabokov: wrote the novel: Lolita; Pale Fire
Golding: wrote the novel: Lord of the Flies
Hawthorne: wrote the novel: The Scarlet Letter
Poe: wrote: The Raven; The Fall of the House of Usher; The Tell-Tale Heart
Chaucer: wrote: The Canterbury Tales
Milton: wrote the poem: Paradise Lost
Ovid: wrote the poem: Metamorphoses
Leonardo/da Vinci: painted: Mona Lisa; The Last Supper; Lady with an Ermine
van Gogh: painted: The Starry Night; The Potato Eaters; Café Terrace at Night
Picasso: painted: Guernica; Les Demoiselles d'Avignon
Michelangelo: painted: The Creation of Adam; The Last Judgment
Rembrandt: painted: The Night Watch; The Anatomy Lesson of Dr. Nicolaes Tulp
Vermeer: painted: Girl with a Pearl Earring; The Milkmaid
Botticelli: painted: The Birth of Venus; Primavera
Munch: painted: The Scream; Madonna
Dalí: painted: The Persistence of Memory; The Temptation of St. Anthony
Klimt: painted: The Kiss; Portrait of Adele Bloch-Bauer I
Monet: painted: Impression, Sunrise; Water Lilies
Velázquez: painted: Las Meninas; The Surrender of Breda
Raphael: painted: The School of Athens; Sistine Madonna
Hokusai: made the print: The Great Wave off Kanagawa
Grant Wood/Wood: painted: American Gothic
Hopper: painted: Nighthawks
Beethoven: composed: Moonlight Sonata; Für Elise; Fidelio; Eroica Symphony
Mozart: composed: The Magic Flute; The Marriage of Figaro; Don Giovanni; Eine kleine Nachtmusik
Bach: composed: Brandenburg Concertos; St Matthew Passion; The Well-Tempered Clavier
Vivaldi: composed: The Four Seasons
Handel: composed: Messiah; Water Music
Tchaikovsky: composed: Swan Lake; The Nutcracker; 1812 Overture
Verdi: composed the opera: Aida; La traviata; Rigoletto
Puccini: composed the opera: Tosca; La bohème; Madama Butterfly; Turandot
Wagner: composed the opera: Lohengrin; Parsifal; Tristan und Isolde
Bizet: composed the opera: Carmen
Rossini: composed the opera: The Barber of Seville; William Tell
Ravel: composed: Boléro
Debussy: composed: Clair de lune; La mer
Holst: composed: The Planets
Stravinsky: composed: The Rite of Spring; The Firebird
"""

#: Countries by their code, and other accepted names, of landmarks, rivers and mountains.
LANDMARKS: Final = """
FR: the Eiffel Tower; the Louvre; Mont-Saint-Michel; the Palace of Versailles; the Arc de Triomphe; Chartres Cathedral
IT: the Colosseum; the Leaning Tower of Pisa; Mount Etna; Mount Vesuvius; the Trevi Fountain; the Uffizi Gallery
GB/England: Big Ben; Stonehenge; Buckingham Palace; the Tower of London; Windsor Castle; Westminster Abbey
GB/Scotland: Loch Ness; Ben Nevis; the Isle of Skye
GB/Wales: Snowdon
GB/Northern Ireland: the Giant's Causeway
US: the Statue of Liberty; the Golden Gate Bridge; the Grand Canyon; Mount Rushmore; the White House; Yellowstone; \
the Empire State Building; Denali; the Hoover Dam
CN: the Great Wall; the Forbidden City; the Terracotta Army; the Three Gorges Dam; the Leshan Giant Buddha
IN: the Taj Mahal; the Red Fort; the Golden Temple; the Ajanta Caves; the Charminar
EG: the Great Sphinx; the Great Pyramid of Giza; the Valley of the Kings; the Suez Canal; Abu Simbel
AU: the Sydney Opera House; Uluru; the Great Barrier Reef; Bondi Beach; Kakadu National Park
BR: Christ the Redeemer; Copacabana Beach; Sugarloaf Mountain; the Maracanã stadium
PE: Machu Picchu; the Nazca Lines; Chan Chan
JP: Mount Fuji; Himeji Castle; Itsukushima Shrine; Kinkaku-ji
RU: the Kremlin; Red Square; Lake Baikal; the Hermitage Museum; Mount Elbrus; the Volga River
ES: the Sagrada Família; the Alhambra; the Prado Museum; Park Güell; the Great Mosque of Córdoba
DE: the Brandenburg Gate; Neuschwanstein Castle; Cologne Cathedral; the Black Forest; the Reichstag; the Zugspitze
GR: the Parthenon; Mount Olympus; the Acropolis; Delphi; Meteora; the Palace of Knossos
TR: the Hagia Sophia; the Blue Mosque; Cappadocia; Pamukkale; Göbekli Tepe; Mount Ararat
AE: the Burj Khalifa; Palm Jumeirah; the Sheikh Zayed Mosque
JO: Petra; Wadi Rum; Jerash
KH: Angkor Wat; Tonlé Sap
MX: Chichen Itza; Teotihuacan; Popocatépetl; Palenque
TZ: Mount Kilimanjaro; the Serengeti; the Ngorongoro Crater; Olduvai Gorge
KE: the Masai Mara; Lake Turkana
ZA: Table Mountain; Kruger National Park; Robben Island
CA: the CN Tower; Banff National Park; Lake Louise; Mount Logan
CA/US: Niagara Falls
ZM/ZW: Victoria Falls
NP/CN: Mount Everest
CH/IT: the Matterhorn
FR/IT: Mont Blanc
AR/BR: Iguazu Falls
AR: Aconcagua; Perito Moreno Glacier; the Casa Rosada
CL: Easter Island; the Atacama Desert; Torres del Paine
VE: Angel Falls; Lake Maracaibo
BO: the Salar de Uyuni; Tiwanaku
BO/PE: Lake Titicaca
EC: the Galápagos Islands; Cotopaxi; Chimborazo
CU: Varadero Beach
GT: Tikal; Lake Atitlán
NL: the Anne Frank House; Keukenhof; the Rijksmuseum
BE: the Atomium; Manneken Pis
DK: the Little Mermaid statue; Tivoli Gardens; Kronborg Castle
NO: the Geirangerfjord; Preikestolen; the North Cape
SE: the Vasa Museum; Drottningholm Palace
FI: the Suomenlinna fortress; Lake Saimaa
IS: the Blue Lagoon; Gullfoss; Eyjafjallajökull
IE: the Cliffs of Moher; the Blarney Stone; Newgrange
PT: Belém Tower; the Pena Palace; Jerónimos Monastery
AT: Schönbrunn Palace; the Hofburg; the Grossglockner
CH: the Jungfrau; Chillon Castle; the Eiger
CZ: Charles Bridge; Karlštejn Castle
PL: Wawel Castle; Auschwitz; the Wieliczka Salt Mine; Malbork Castle
HU: Lake Balaton; Buda Castle; Fisherman's Bastion
RO: Bran Castle; the Palace of the Parliament; Peleș Castle
BG: Rila Monastery; Musala
HR: the Plitvice Lakes; Diocletian's Palace
SI: Lake Bled; Triglav; Postojna Cave
BA: the Old Bridge of Mostar
UA: Chernobyl; the Khreshchatyk
MA: the Hassan II Mosque; Jemaa el-Fnaa; Toubkal
TN: the ruins of Carthage; the Great Mosque of Kairouan
LY: Leptis Magna
ET: Lalibela; Simien Mountains; Aksum
SD: the pyramids of Meroë
ML: the Great Mosque of Djenné
NG: Zuma Rock; Olumo Rock
NA: Sossusvlei; the Skeleton Coast; the Fish River Canyon
BW: the Okavango Delta; Chobe National Park
MG: the Avenue of the Baobabs
SA: the Kaaba; Hegra
IL: Masada; the Knesset; Yad Vashem
LB: the ruins of Baalbek; the Jeita Grotto
SY: Palmyra; the Krak des Chevaliers
IQ: the ruins of Babylon; the Ziggurat of Ur
IR: Persepolis; Mount Damavand; Naqsh-e Jahan Square
PK: Mohenjo-daro; the Badshahi Mosque; Faisal Mosque
AF: the Buddhas of Bamiyan; Band-e Amir
UZ: the Registan; Itchan Kala
KZ: the Baikonur Cosmodrome; Khan Shatyr
LK: Sigiriya; Adam's Peak
MM: the Shwedagon Pagoda; Bagan; Inle Lake
TH: the Grand Palace; Wat Arun; Ayutthaya
VN: Ha Long Bay; the Cu Chi Tunnels; My Son Sanctuary
LA: the Plain of Jars; Pha That Luang
ID: Borobudur; Bali; Krakatoa; Prambanan; Mount Bromo
MY: the Petronas Towers; the Batu Caves; Mount Kinabalu
SG: Marina Bay Sands; the Merlion; Changi Airport
PH: the Chocolate Hills; Mayon Volcano; Intramuros
KR: Gyeongbokgung Palace; Jeju Island; Bulguksa Temple
KP: the Ryugyong Hotel; the Juche Tower
MN: the Amarbayasgalant Monastery; Erdene Zuu Monastery
BT: Paro Taktsang
NZ: Milford Sound; Mount Cook; Hobbiton; Lake Taupo
FJ: the Mamanuca Islands
"""
