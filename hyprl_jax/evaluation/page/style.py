"""Style sheet and script of the report page.

Colours of methods are those of Okabe and Ito ("Color Universal Design", 2008), darkened on a light ground and
lightened on a dark one until they stand out by a factor of three; text stands out by 4.5 or more everywhere.
The script does nothing but order tables by a click; the page is complete without it.
"""

from __future__ import annotations

import base64
import hashlib

LIGHT = {
    "ground": "#ffffff", "ink": "#1d2126", "faint": "#596068", "rule": "#d5d9de", "panel": "#f5f6f8",
    "accent": "#0b5c94", "grid": "#e6e8eb", "shade": "#c3c8ce",
    "c0": "#0072b2", "c1": "#d55e00", "c2": "#008a64", "c3": "#b8588d",
    "c4": "#b57c00", "c5": "#3188bd", "c6": "#1d2126", "c7": "#575c00",
    "h0": "#d4e6f5", "h1": "#f7f7f5", "h2": "#fdeccb", "h3": "#f9d296",
    "h4": "#f0a76b", "h5": "#d9713f", "h6": "#96300f",
    "h5-ink": "#1d2126", "h6-ink": "#ffffff",
}  # fmt: skip
DARK = {
    "ground": "#14171a", "ink": "#e4e7ea", "faint": "#a0a8b0", "rule": "#383e45", "panel": "#1c2024",
    "accent": "#7dbdec", "grid": "#262b30", "shade": "#4a525a",
    "c0": "#4aa8e0", "c1": "#f07f2e", "c2": "#2bbf90", "c3": "#dd8fbb",
    "c4": "#e0a526", "c5": "#8accf2", "c6": "#e4e7ea", "c7": "#dfdb94",
    "h0": "#173c5a", "h1": "#1c2024", "h2": "#3a2f18", "h3": "#57401a",
    "h4": "#7c4d18", "h5": "#b8622f", "h6": "#f09a6a",
    "h5-ink": "#000000", "h6-ink": "#14171a",
}  # fmt: skip

_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);
 font:16px/1.55 system-ui,"Segoe UI",Roboto,"Helvetica Neue",
 "Noto Sans","Liberation Sans",Arial,sans-serif;font-variant-numeric:tabular-nums;overflow-wrap:break-word}
main,header,footer{max-width:78rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2rem}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .75rem;font-weight:650;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.75rem 0 .5rem;padding-top:.75rem;border-top:1px solid var(--rule);
 font-weight:650}
h3{font-size:1rem;margin:1.25rem 0 .35rem;font-weight:600}
p{margin:.4rem 0 .8rem;max-width:46rem}
.lead{font-size:1.125rem;max-width:54rem}
.note,caption,figcaption,footer{color:var(--faint);font-size:.875rem}
.name{font-weight:600;overflow-wrap:anywhere}
a{color:var(--accent)}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1rem;padding:0;margin:1.25rem 0 0;
 font-size:.9rem}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.2rem 1.25rem;margin:1rem 0;
 font-size:.9375rem}
dt{color:var(--faint)}
dd{margin:0;overflow-wrap:anywhere}
code,pre{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.8125rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--panel);padding:.75rem 1rem;
 border-radius:6px;margin:.5rem 0}
.pair{display:grid;grid-template-columns:minmax(0,1fr);gap:0 2rem}
figure{margin:.75rem 0;min-width:0;max-width:46rem}
figcaption{margin-top:.25rem}
.tables{display:flex;flex-wrap:wrap;gap:0 3rem}
.tables>*{min-width:0}
.small-multiples{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(17rem,100%),1fr));
 gap:.5rem 1.5rem}
.scroll{overflow-x:auto;max-width:100%;margin:.75rem 0 1rem;border-radius:2px;
 background:linear-gradient(to right,var(--ground) 40%,transparent) left/3rem 100% no-repeat local,
 linear-gradient(to left,var(--ground) 40%,transparent) right/3rem 100% no-repeat local,
 linear-gradient(to right,var(--shade),transparent) left/1rem 100% no-repeat scroll,
 linear-gradient(to left,var(--shade),transparent) right/1rem 100% no-repeat scroll}
.scroll:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
table{border-collapse:collapse;font-size:.875rem;line-height:1.35}
caption{text-align:left;padding:0 0 .4rem}
caption span{display:inline-block;position:sticky;left:0;max-width:min(46rem,calc(100vw - 2.5rem))}
th,td{padding:.3rem .7rem;text-align:right;white-space:nowrap;vertical-align:top}
th{font-weight:600}
thead th{border-bottom:1.5px solid var(--ink);vertical-align:bottom}
.fit{display:inline-block;width:max-content;max-width:11rem;white-space:normal;overflow-wrap:anywhere}
tbody .fit{max-width:20rem}
tbody tr+tr>*{border-top:1px solid var(--grid)}
tbody tr:last-child>*{border-bottom:1px solid var(--rule)}
th.text,td.text{text-align:left}
tbody th{font-weight:500;position:sticky;left:0;background:var(--ground)}
td.best,tr.best>*{font-weight:700}
td small{color:var(--faint);font-size:.93em;font-weight:400}
td.apart{font-weight:700}
td.none{color:var(--faint)}
thead button{all:unset;cursor:pointer;font:inherit;border-bottom:1px dotted var(--faint)}
thead button:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
[aria-sort=ascending] button::after{content:" \\2191"}
[aria-sort=descending] button::after{content:" \\2193"}
.heat td{border:1px solid var(--ground);text-align:right}
.heat thead .fit{max-width:7.5rem}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;padding:0;margin:.5rem 0 .75rem;
 font-size:.875rem}
.legend li{display:flex;align-items:center;gap:.45rem;min-width:0;max-width:100%}
.legend bdi{overflow-wrap:anywhere;min-width:0}
.legend .strong{font-weight:700}
.swatch{width:26px;height:12px;flex:none}
.keys{display:flex;flex-wrap:wrap;gap:.3rem;list-style:none;padding:0;margin:.5rem 0;font-size:.8125rem}
.keys li{padding:.1rem .5rem}
.chart{display:block;width:100%;height:auto;overflow:visible}
.wide{display:none}
.chart text{font-size:12.5px;fill:var(--ink)}
.chart .tick{fill:var(--faint);font-size:12px}
.chart .axis{fill:var(--faint);font-size:12px}
.chart .series.strong{font-weight:700}
.grid{stroke:var(--grid);stroke-width:1}
.axis-line{stroke:var(--faint);stroke-width:1;fill:none}
.connector{stroke:var(--ink);stroke-width:1;fill:none}
.clique{stroke:var(--ink);stroke-width:4.5;stroke-linecap:round}
.line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.line.strong{stroke-width:3}
.line.d1{stroke-dasharray:7 4;stroke-linecap:butt}
.line.d2{stroke-dasharray:2 3;stroke-linecap:butt}
.line.d3{stroke-dasharray:9 3 2 3;stroke-linecap:butt}
.line:hover{stroke-width:4}
.leader{fill:none;stroke:currentColor;stroke-width:1}
.band{fill:currentColor;fill-opacity:.08;stroke:none}
.band.strong{fill-opacity:.16}
.whisker{stroke:currentColor;stroke-width:5;stroke-opacity:.35}
.dot{fill:currentColor}
.reach{stroke:currentColor;stroke-width:3;stroke-opacity:.55;stroke-linecap:round}
footer{margin-top:3rem;padding-top:1rem;padding-bottom:2.5rem;border-top:1px solid var(--rule)}
@media (min-width:620px){.wide{display:block}.narrow{display:none}}
@media (min-width:1080px){.pair{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}}
@media (max-width:619px){body{font-size:15px}main,header,footer{padding-left:.9rem;padding-right:.9rem}
 h1{font-size:1.3rem}.lead{font-size:1.05rem}dl{grid-template-columns:minmax(0,1fr);gap:0}dd{
 margin-bottom:.5rem}
 th,td{padding:.28rem .5rem}tbody .fit{max-width:14rem}tbody th .fit{max-width:8.5rem}thead .fit{
 max-width:7rem}}
@media print{body{font-size:10pt}main,header,footer{max-width:none;padding:0}nav{display:none}.tables{
 display:block}
 .wide{display:block}.narrow{display:none}.scroll{overflow:visible;background:none}
 tbody th,caption span{position:static}
 h2,h3,caption{break-after:avoid}figure,tr{break-inside:avoid}table{font-size:8pt}th,td{
 padding:.15rem .35rem}
 td,.keys li{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""

SCRIPT = """
document.querySelectorAll("table.sortable").forEach(function(table){
  var heads=table.tHead.rows[0].cells, body=table.tBodies[0];
  function key(row,column){
    var cell=row.cells[column], given=cell.getAttribute("data-value"), words=cell.textContent.trim();
    var number=parseFloat(given===null?words:given);
    return isNaN(number)||column===0&&given===null?words:number;
  }
  Array.prototype.forEach.call(heads,function(head,column){
    var button=document.createElement("button");
    while(head.firstChild)button.appendChild(head.firstChild);
    head.appendChild(button);
    button.addEventListener("click",function(){
      var down=head.getAttribute("aria-sort")==="ascending", rows=Array.from(body.rows);
      Array.prototype.forEach.call(heads,function(other){other.removeAttribute("aria-sort")});
      head.setAttribute("aria-sort",down?"descending":"ascending");
      rows.sort(function(first,second){
        var a=key(first,column), b=key(second,column), order;
        if(typeof a===typeof b)order=a<b?-1:a>b?1:0; else order=typeof a==="number"?-1:1;
        return down?-order:order;
      });
      rows.forEach(function(row){body.appendChild(row)});
    });
  });
});
"""


def style_sheet() -> str:
    """The whole style sheet: colours for light and dark, and printing always on white."""
    light = _variables(LIGHT)
    methods = "".join(f".s{index}{{color:var(--c{index})}}" for index in range(8))
    levels = "".join(f".h{index}{{background:var(--h{index})}}" for index in range(7))
    inks = ".heat .h5,.keys .h5{color:var(--h5-ink)}.heat .h6,.keys .h6{color:var(--h6-ink)}"
    dark = f"@media screen and (prefers-color-scheme:dark){{{_variables(DARK)}}}"
    scheme = ":root{color-scheme:light dark}@media print{:root{color-scheme:light}}"
    return scheme + light + dark + _RULES + methods + levels + inks


def security_policy() -> str:
    """What the browser lets the page do: nothing is loaded, and no script runs but `SCRIPT`."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    rules = ("default-src 'none'", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'")
    return "; ".join((*rules, "base-uri 'none'", "form-action 'none'"))


def _variables(colours: dict[str, str]) -> str:
    return ":root{" + "".join(f"--{name}:{value};" for name, value in colours.items()) + "}"
