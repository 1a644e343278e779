/* The page's style and script, as texts; report.c alone includes this.
 * Colours are for light and dark; series c0..c7 keep apart for the colour-
 * blind in this order.                                                       */
#ifndef AT_REPORT_STYLE_H
#define AT_REPORT_STYLE_H

static const char *const page_style[] = {
":root{color-scheme:light dark;--bg:#f6f6f4;--card:#fff;--ink:#16181d;"
"--soft:#5c6370;--line:#e3e3df;--grid:#ececea;--bad:#c62828;"
"--c0:#2a6fd6;--c1:#d9591c;--c2:#16936a;--c3:#6b4fc0;--c4:#c98500;"
"--c5:#c2407c;--c6:#4d7f17;--c7:#8a5a3c}",
"@media(prefers-color-scheme:dark){:root{--bg:#131417;--card:#1b1d21;"
"--ink:#e9eaec;--soft:#9aa0ab;--line:#2d3036;--grid:#26292e;--bad:#ff7a70;"
"--c0:#5b9bf5;--c1:#f0834a;--c2:#35b98a;--c3:#a08bf0;--c4:#e0a52c;"
"--c5:#e873a8;--c6:#8fbf4f;--c7:#c69674}}",
"*{box-sizing:border-box}",
"body{margin:0;background:var(--bg);color:var(--ink);"
"font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',"
"sans-serif}",
"main{max-width:1080px;margin:0 auto;padding:36px 20px 60px}",
"h1{font-size:25px;line-height:1.25;margin:0;letter-spacing:-.01em;"
"overflow-wrap:anywhere}",
"h2{font-size:16px;margin:38px 0 12px}",
".sub{color:var(--soft);margin:4px 0 22px}",
".tiles{display:grid;gap:10px;"
"grid-template-columns:repeat(auto-fit,minmax(128px,1fr));margin:0 0 14px}",
".tile,figure,.card{background:var(--card);border:1px solid var(--line);"
"border-radius:10px}",
".tile{padding:11px 13px}.tile b{display:block;font-size:20px;white-space:nowrap;"
"font-weight:600;font-variant-numeric:tabular-nums;line-height:1.3}",
".tile span{color:var(--soft);font-size:12.5px;display:block}",
"figure{margin:0;padding:14px 12px 8px;position:relative;min-width:0}",
"figcaption{font-weight:600;font-size:14px;margin:0 6px 4px}",
"small{color:var(--soft);font-weight:400;font-size:12.5px}",
".charts{display:grid;gap:12px;"
"grid-template-columns:repeat(auto-fit,minmax(300px,1fr));margin-top:12px}",
"figure>svg{display:block;width:100%;height:auto;overflow:visible;"
"touch-action:pan-y}",
"svg text{font-size:11.5px;fill:var(--soft);"
"font-variant-numeric:tabular-nums}",
".y{text-anchor:end}.x{text-anchor:middle}",
".g{stroke:var(--grid)}.a{stroke:var(--line)}.m{fill:var(--bad)}",
".f,.l,.d{fill:none;stroke-linejoin:round;stroke-linecap:round}",
".f{stroke-width:1;opacity:.3}.l{stroke-width:2}"
".d{stroke-width:1.4;stroke-dasharray:1 4}",
".p{stroke:var(--card);stroke-width:1.5}"
".b{fill:none!important;stroke-width:1.8}",
".c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}"
".c4{--c:var(--c4)}.c5{--c:var(--c5)}.c6{--c:var(--c6)}.c7{--c:var(--c7)}",
".f,.l,.d,.b{stroke:var(--c,var(--soft))}.p{fill:var(--c)}",
".key{display:flex;flex-wrap:wrap;gap:4px 20px;margin:0 0 10px;padding:0;"
"list-style:none;font-size:13.5px}",
".key li{display:flex;align-items:center;gap:7px;overflow-wrap:anywhere}",
".key svg{width:26px;height:12px;flex:none}",
".sw{display:inline-block;width:10px;height:10px;border-radius:3px;"
"background:var(--c);margin-right:7px}",
".scroll{overflow-x:auto}",
"table{border-collapse:collapse;width:100%;font-size:13.5px;"
"font-variant-numeric:tabular-nums}",
"th,td{text-align:left;padding:6px 12px;border-top:1px solid var(--line);"
"vertical-align:top;overflow-wrap:anywhere}",
"thead th,tr:first-child>*{border-top:0}",
"thead th{color:var(--soft);font-weight:500;font-size:12.5px;"
"white-space:nowrap}",
"tbody th{font-weight:500;overflow-wrap:normal}",
"td.n,th.n{text-align:right;white-space:nowrap}",
".two{display:grid;gap:12px;align-items:start;"
"grid-template-columns:repeat(auto-fit,minmax(300px,1fr))}",
".card{padding:4px 4px}.card h3{font-size:12.5px;font-weight:500;"
"color:var(--soft);margin:9px 12px 7px}",
"code,pre{font:12.5px/1.55 ui-monospace,SFMono-Regular,Menlo,Consolas,"
"'DejaVu Sans Mono',monospace}",
"pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;padding:10px 14px;"
"unicode-bidi:plaintext}",
"summary{cursor:pointer;padding:8px 12px;color:var(--soft)}",
"details.card{margin-top:10px}.stack>*+*{margin-top:12px}",
".sample{padding:9px 12px;border-top:1px solid var(--line);"
"white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext}",
".sample b{font-weight:600;color:var(--c0)}",
".warn{color:var(--bad);margin:6px 0}.none{color:var(--soft);margin:18px 6px}",
".tip{position:absolute;pointer-events:none;background:var(--card);"
"border:1px solid var(--line);border-radius:8px;padding:6px 10px;"
"font-size:12.5px;line-height:1.5;box-shadow:0 3px 14px #0002;"
"white-space:nowrap;z-index:2;font-variant-numeric:tabular-nums}",
".cross{stroke:var(--soft);stroke-dasharray:2 3;opacity:.7}",
"@media(max-width:700px){figure{overflow-x:auto}"
"figure>svg{min-width:300px}.wide>svg{min-width:640px}}",
"@media print{body{background:#fff}figure,.tile,.card{break-inside:avoid}}",
};

/* Values under the pointer.  Texts go in by textContent alone.               */
static const char *const page_script[] = {
"for(const svg of document.querySelectorAll('svg[data-f]')){",
"const [x0,x1,l,r,t,b]=svg.dataset.f.split(' ').map(Number);",
"const fig=svg.parentNode,curves=[...svg.querySelectorAll('.h')].map(g=>({"
"name:g.dataset.n,cls:g.getAttribute('class').split(' ')[1],"
"p:g.dataset.p.split(' ').map(Number)}));",
"const el=n=>document.createElementNS(svg.namespaceURI,n);",
"let line,tip;",
"const leave=()=>{line&&line.remove();tip&&tip.remove();line=tip=null};",
"svg.addEventListener('pointerleave',leave);",
"svg.addEventListener('pointermove',e=>{leave();",
"const box=svg.getBoundingClientRect(),k=svg.viewBox.baseVal.width/box.width,"
"f=((e.clientX-box.left)*k-l)/(r-l);",
"if(f<-.02||f>1.02)return;",
"const want=x0+f*(x1-x0);let at=null;",
"const near=p=>{let j=-1;for(let i=0;i+1<p.length;i+=2)"
"if(j<0||Math.abs(p[i]-want)<Math.abs(p[j]-want))j=i;return j};",
"const rows=curves.map(c=>{const j=near(c.p);return j<0?null:"
"{c,x:c.p[j],y:c.p[j+1]}}).filter(Boolean);",
"if(!rows.length)return;",
"for(const w of rows)if(at===null||Math.abs(w.x-want)<Math.abs(at-want))"
"at=w.x;",
"const x=l+(at-x0)/(x1-x0)*(r-l);",
"line=el('path');line.setAttribute('class','cross');"
"line.setAttribute('d','M'+x+' '+t+'V'+b);svg.append(line);",
"tip=document.createElement('div');tip.className='tip';",
"const head=document.createElement('b');head.textContent='step '+at;"
"tip.append(head);",
"for(const w of rows){const d=document.createElement('div'),"
"s=document.createElement('span');s.className='sw '+w.c.cls;d.append(s,"
"w.c.name+'  '+Number(w.y.toPrecision(5))+(w.x!==at?'  (step '+w.x+')':''));"
"tip.append(d)}",
"fig.append(tip);",
"const px=svg.offsetLeft||box.left-fig.getBoundingClientRect().left,"
"cx=px+x/k,left=cx+14+tip.offsetWidth>fig.clientWidth?"
"cx-14-tip.offsetWidth:cx+14;",
"tip.style.left=Math.max(4,left)+'px';"
"tip.style.top=(box.top-fig.getBoundingClientRect().top+14)+'px'})}",
};

#endif
