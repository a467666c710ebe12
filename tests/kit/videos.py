"""Beginnings of small videos, as FFmpeg 5.1 wrote them, up to the first bytes of their frames."""

from __future__ import annotations

import base64
import zlib


def _head(packed: str) -> bytes:
    return zlib.decompress(base64.b85decode(packed))


HIGH_B_FRAMES = _head(
    "c-"
    "oazO=uHA6n?u&+E}cF*lN^P($Yc^ThiKA#2%{l5Y(HrSn0t{X48c3CSi9Q+6vN}9>trUMNx}CR}oYcEQ%ub)PsVEAozoxtf16yc4x^XZKE#v^4"
    "`38@6DTe-wYAOGtO)=XBSK&mAC}@v{Jg)EcW*j)$cM3g%S}NW+}_4;tPCqp%DL-Kc&*EdOS=uzX0m^=2+Sk^a*FmT{EyY8(+KjI_s{>{}S%7Lu"
    "ZZ+*`gb^Q;y(y!y;DAnk=V5iJPo??_DlNpSXkWEHf;Brj%p4>^X*UA*tn=p>rQ~tC`DZpfr_CH>q4^2lM7yn5Ac=ZET*ljJT&OOSY3Tpg*u3n@"
    "K*mdDAvH3cm3KB_Wf(NAq#`4;<*(x4)-1k%$|))J)%CzZ4N$UB&+ZypAZ08dl#?Y!Y%|dE|@|;XUDh%JBF0@zV;`Wk0=t-"
    "v03S$_fvS6g9gj%HU{9IhHu%gC{*u%y!)K_seY{3Ua*(+mh`Z$#mJb-"
    "m`_pe8g>(i2d8R3%S!Gk1BFkOO7G<%}Gar+Cmfjh<PgnE(2SHJ}2q@wv#T1xJ@Yc7^bk_=ux8PYeYL{iCV`&sVnF<@^%g46h~|DU0sLoit_*Wt"
    "OnnMKHpz#%=d*6qB|q&@!c*==Vi|m7&D3QGlK6C+pI|X4_sG=1lP}2aXpX6Nn5jR)$2Ad72lw4GnX`h`T6-"
    "yOa>vh4>!9p(eoT3SVGb8*axbErl=KE6+ZkpB&u?sy=8h4UyDh!s+VZw(<&r%-qxVdLz2BtvWF!*=tGS{U#y~JH_WOBx(M6@-"
    "U|5=cnW+5UIAal+!An!zZ}ATAGiU$0e%3_L_BZuqL^C{`MCcw@C&#pY+r!az*T{}BIhIEu~_e?rz`%RtFA}m7_J988-?6<2-"
    "o8rt_Pmaw%s5|4A<i@{C3)tMaC0Y1;g;Ks{1;%*r`eW(D*ZocQUR_O*4mc<dms9K3Cdg;)3j!RxBDadAoDo?dZJj6nL4fOml-"
    ">lHtY7;Kl57UrgSsjHRR2Jr_)Pp{!ef01}n$GX"
)

MAIN_SILENT = _head(
    "c-nnZ%}xR_5T1f0gn00Pkpm=XH1Q$=qQ=BTq8AQ&F;U~sWud#WVaqPNW#iw$$IwUc5j^Y7C-"
    "CUa#KgoWz?m+@f=bh`Gt++4na&gd@|L{x?7$TOF(8R38)2g)yh;fmzAIce1OP{bO%6jN{;t4)=FecmtWmoPV@C{UD1D=a`k8F0nDO7YQS9+?{)"
    "|gYQJM25mjTMG=>+n}qkpgRWuJoE1}b^MN8i4vaPX{*r6za$!AWRyQ)eEc?beJocTD22dttXNRMMePm+EQG^XM$gebdsOG1>K<e5AAEK-"
    "L}99|IY1jq^ZF`==E2@FLVu)&`8}UF5HB6js&?rD8Gf*!7F@T1E57^m@21BWs84Ra3n;m^nxJI&saWs3o+p>en2<WsqooJiSnYQ=Soc{R9Z<y7"
    "c?i-M)(enLw(_4-"
    "!oQOpu<&2kHBSEbcW%_ELShiDy?@!nmKvp`?yA5gkMwLESh)>?8INTT!frt9AW`xLq#E_e7XV(wNmdi@(7)JkQbVx@1S+XW>D*bYYGg%2{;)OK"
    "f3@%c{g^CoSK^Y?7w}S@_R8-@XrZ!T"
)

BASELINE = _head(
    "c-oazO=uHA6n?u&YHSs1X=#-dQfWc4KWVL1p@(7%_E4};tRP-ColP6Mn_YLe!5@@hFCIkHo8rZbP%WZIMNv_(D2nK*2MawY9{fQNL=fsXyR&4H"
    "wn2yecHX>s^JeC~?+p<pGu}x%>sls}O1uYpwERT3Y4>&$RV|v9l_w&@%ug{YX_3!96yjg8DWz8B;{mGJA~?r2&(WqKAM>XDJtM2V@x3eWv*y11"
    "m-2_LI`drg3EgnL;tJu{U#r%cEUQ6CnymcpJA52|?hiVqnBjyo`7G0A%W;gYVJ*iDo!cmn%xo?Lp+0Z=PUT~^vS2R396cjlW7CXdBm-GF<9cZW"
    "@_pBHnPfA^leSJM_{CE+jD9$@Xc&S0p8cJ>_jY!tQb{A5KGD<HE3If+S;4;xR)flcC)F#<)HsQLF?w35<tgDmW#GqlR!}H5^=kGNKVYq`xwbd}"
    "M}69JM05{c3P4S+=SMy~Xf;uk%k{XBtmjBTH&Lbw(T}-"
    "P(t+V8b{RdGOgZ2<z%#*p9s$OHQD6|*=Xw)Xab3KIXv;aG2JoZl6H)U{B>gq=(T*(NAlijcbYU)%t-"
    "wrm4Q49J|5ro>W=2D1F0aqb`5~gaLu)b9wPtd%<rv1S$V~NuU}mjrmN@+fR;r_dm1oOXnZq-pt-7|#*%KTUtxtEEpZG|jP-"
    "w$s6n*1BgTJQkJVy+gSY3SlBUM3C)Dmh58y*gcTHK~xP>b)(_p&8A#mnf#?PEgbX^jdwCh4mreO%ISl=L-"
    "{exZz_9Z;(Q=nC)vSQ7mk;05pncnf?JbMJwxz+<6*2;2fb0Kb5jVm(jzf|#2Z{<!@j@CUdpbYFpYz)gXB!sk=qnb_}lAS>bh`=xTh{Wjpfo3Eo"
    "}zN2LB5N$<yHD4rZ0h3#2Q8GUf`a>ug$h6I!v>A8gScW0utoUzB!c9-"
    "|$0D3jf(ZG2dWLzNH%Cp~3;EL`lNklzXtr(0gzm@&71K87S^T)oO!F7}#KU`+!F$)^zjr);8Ar$S(B5dmYDuM$zYLu2<p"
)

H265 = _head(
    "c-nnZ&5P4O6n~Q}(w4$j=&k{~B`YiFVVAb<2MY>CJ@l{#FMh0eFzqBHY-STO)1Z42JP97W2p+u(qW%kle}I31XOA9NQ0jY=luoPekl(z|d2in2"
    "2LP==JxwE-2mlL6B6=d-?gA{;M3UqH5Q{wIFt_aQ8Vu;0EjFLEX!qgFWns;2m3c>~KT=1!r~P*|>V0;ffA*!Vqs<MUD~Yn@$5PEsP~A#-"
    ")_N~^<e}mUzBv08jk{m8u^I9>n?~}8`)1}nw3C5%%wwN&totH54p3?4LKii!xxtHAi)Vgdj8PwFv0LcY1*wKHs#U2ZH*$W4e%}4hQ_$cY7@!<X"
    "Ggc0~e6+K_b!~5}+v&J*G<?$A-7!u$lL_wQFdyAw>@ljZw7dNSe*Hc@1z5IS?Bn!VolPc`U{i)oU;Fi&>N*Cm-ehbc^45L6dU*KZ;3Eqw<j~ul"
    "{w2&lcbk2dUteI4S`hiMo}rO?GA#!pG>0lH|5p1`0dS<!e{wo_4OvTi6CcR*6ILZxR1e%n!*K`>8V^RZ3e_UBQl4tUygjY9R7$6m^^&`D@fO}-"
    "v~Yu3DX(Mf#CUG>TQ^X?L|mlF5zB~Yh&9A{#7gPM$wrCMYZv8k%oTC<q42e&wQlkfxtw`v8k?-"
    "xj0*B!ey0*DxW+wwSPzN>36LN?O%SvzLFOZ~?Qa6J@V5JZ0C}~7EC"
)

MP3_SOUND = _head(
    "c-qZW&ubGw6n?u&Yg!tpkYcbE)6&v{wxqRH6p?~G6zM?`1*L~>G8-GZ+YP(ZVD*x}z?%qq^duDZ;8pY>c<@p|4_-"
    "v^pwg2ktDyCJvlBW=+n_gxef!?b`{vhs-"
    "y0&zmE>xr90fj+O{^gkPPI7hS0=}a+F$xXP$eSIuPzE|Xo)XMEaGpwS&gXX{xr3034AFTI!mzU<&xSnv2!)vyY)W1?#sWt>JGX>M$mn(7s>4zy"
    "lzU*wQIg8J1}y-"
    "XukW1l1ndCXLM0`Vck<L3)e(mMn9N!mWAgs#y;YgmrF1*RbMS?9&=E{zCIDUCF2@hE1{Q*ZEGWv1rPSKNJhfIJmRG75emL|o@SwE>xiB?;HOTG"
    "9Xl~Lp3mpJa^d>K@kwJwc54g&DWJ|;f;zW8QuZ43+Pj&XRyXH_f7bN3fh!9ZwJ&abdNuI;*XAZq?XEacMIVDDQ;?yK@u~B%P&Se({`KQ_5+&Kr"
    ";9BN5%R+G*+Zm6gv_C_Q{rbG*U;5Sf2=**$pRIAtn&mWbH;fSBEN%19Pay|6O<L|j4jBC@$Ydmofu7fay82F({y?<<49<89@b^T$Sm$t-"
    "sQ(U_@EKcwZBYmIE_Gm8|6YGB>L7VR*MYNl9jwg|J-)qL9Yn#(vWdKizA);bOV>en<Tot(H#M-"
    "XYd|*DfWV{W?6|hgRE>{{cGQi8B2%JPtM$T}gibH@DCh6DEbSPv>_+0o9u9&*T*eF|P&IunUS!T7Q=37aI+>E%-"
    "lr4FcFGv<(4=AeNfY7t)mewU{*R@J=xM}0{S!n#hj89S-"
    "LHb^Z$R`x5dA*UP#<uG6(KoqSAAF3^Ve^Z2?PwCO2sn?HCm1tJM=&Xyx}3?sL3kvc-=~P-6quQ#t|-sE}rG#A3jh>#KS+V?CY-"
)

VP9 = _head(
    "c-oazJ!lj`6n?u&RARtD0v_?yQ{xZlC6`3;0wRh{Fp+?wg|XSY*-Mt}-mW`)i$C}S7HVN(6Rgz2BLA_l5VTMf3wvuVMX<LJ;x}`%xydCtb-"
    "3@|yf<&(d-LX-"
    "A)<6Cx*j;(_lQgq66p7WqkTl1Zh5{R6Orr16O2}krtcC4iC=9PtG(*=Q`B%Yp@xT1XiZ{%C7P5uo7P4Xxf|zMH?R21NwwQ%5r<6ME{|$osJQZ5"
    ")9{#MVUqD!{oW5rT>L1N>;!YeWF>Z(t$SXA?hjdI=Gwx?nD?A=36sv)lR@<|yIFND%|g4RZKJIcx|!<SK)D4M^JyM&rujUHgWTW-tq>c}(GcWN"
    ";*lD$;^MKvo`K^%eYsr5bqaBCEgJ_(2udw4%PNE784=ECy>FV;mDZADyD~+4VDUiZ6X+~Np=#zxPz9xUBpaR7)k@SX=AEctw+p0UE7sW(oWR-"
    "*ZAT)`d&n~I7`O*K1?~X1fvbQxo|{0PM@7H(-"
    "R3Vu+rAQYOcQN?MzrGr(e6h?``~l%Jkj9;M7_fx!>$HIG}j@bVf_CEXh1|GuZTFcF%jR~C3^dMJtA_yQr0~$KxZ`~nx_>J+qt(Y=s%FqY*8c}t"
    "0Up?Xi(v6wrx;*QYuCV8x1&Gm0z)FyfM1YN?@-"
    "VZ$z*A(UW)T4&=q{)3{>RaYg7YYW}T`Hv=#qfqV|k0&_|Vyiocgu%s}j<lk)b4g40AeNow7YWm^^ezVGNLBpID8$QO#>b+Ru_EtRDGdQU!oa#B"
    "W6_+`+7bgimXWGE;pWycg@cRe&{R#eEd^}*HNulq$NgtPg3li|cxVXLgO0&w+t2$e#ut>1-"
    "vS&*v#vYx4U~OmxfvdAH>r`pJe<t!p**lpfKbCC4n^eM^)Gyy8=vzvmjmI?G<-zOMtEJC>0K#M9hy"
)

AV1 = _head(
    "c-"
    "nnZ%}T>S5T2wxNKx>RL%|9WBY0^^YefY?(Mu14Am~8^*>n>cy4!?g8_<(Jfe+xpv!}j<kK(~M@K|Rz3Efuhva|EMGdtfb0N8<eh{H7E047LIGP"
    "jMq!{crnpmN5eC<6e-vjK&<Rryk6fZVfX%ttNir?7OHxS2@E5al~DR5dHVv&q`a>-<?)9<EXypNbTD!)K|O-6-"
    ";^yT&J{Awj|Bbg}ncMb{rnX$~k$N>3J2Uyr;&J?fDWWxk9tUU)bPP_QztlIqWNXzpv!#1FJKR>ujmbJ@5|g~w2yq#~tS%$pqCKTycVUFae2l@a"
    "v|lJ)nGT6+hrw(Hs~^hm^;Br8)ueLBT+11;yzSi81{hdKFvy?3fzctTe#2z{n1t;Zydi?Wg|Pb3AV+lM(pJrxS?@_99Ys+28kL$^z6psl}Ps}="
    "kheUDmWXg3{n@#3FY1;5gCNhf)&ex%J>&chp1A!mHceZ}S4(&vePAR%$gbTpe`{%LmJMI;k$Qlc&^G!WPTf$b<@QC|rXAAdwO;us}i`~gq?Zp8"
)

FRAGMENTED = _head(
    "c-pO0y-EW?5T3ng5K#yc(Ly1Lf{l_yjo1aWNMR=m{uExa7jt-<J8n0Je@IFT-"
    "@qpjeFrV96d%A+L=bGW(njL!n&2jypx|=5GjsFJ?CgBE2LK~^vE$j?WdH_9i8F;WX$H9j^QIC2Z8ywy0|0PXP@qsZLXS!i^?VIdk7~5j&~g|U@"
    "GN|D3-xuerS=T9$o{u|<q}uUBSvi#l^COq=NeP%(xnpP1?u=UPhe9^M=qo7X3QdWEQujA%r53pi3Ut1)k_$mpS}U=TY0U-"
    "u9EM>s`@JzSqJ4Q7o2LCV@XKU2Bh&w8I+kCqIUuD)3XzkGZTq;Jm%Qh?PO|7i|DUZaGgff9HG!zxr6>qlxMf|dn6+JEf<o08D7~S5H393Uk_ir"
    "zrD%Oh-Y%IT85kvE(F(7qs?=g9YuS$p<u-1T#cyn7JM5&F-"
    "`vbosqTXe4ouX<D0vsqK;fdn`(TAt9(Z|t4sPDuCJ<GA2e`X#EWNsJCY$Osg(*Ti&NF~P`O+lMQ0nzzI3mO={}UR9pAL~bSytW7&Ri>7|jY_fQ"
    "I=W`XIvsYg@Kf_)3EIdFVs;8$bB7B`V~}SD7Vh9T?K-Kni`+^Bg^B+;+G;)aZ$DWl@9FRKY4a-h({egQU6#xamIr%oJZAL`tYt"
)

PRORES = _head(
    "c-pO$zi-"
    "n(6vy8sjas!u_TZtFGPqI)2B^X>L8Vs8P*thYN=OJ;SdN@6NAbn3@8a~wPzL@31_qcqAc0tsm@C8|fW*Lr*cjn2DDN&dIlCbO2`kTjet!3TclS"
    "OQ0C0SH81GBh1*pL2S&MiSr2r7}G+<D;s^7H{P`~j-idp6NCQQAmSo=^Ww1@s9+0!+v7u8hl>2)U7RkwzIUG<n0_^f-"
    "OkmC`Vt{zK%a@M8jxSW;Oep%bexqi7CurN^$55gqvGSAFhe1L(dMf)uDFp0e6-"
    "M)`;C*@kyoaU8Wh@sFR30+fYVT(%oTL)IzNT<#c&o`F5n2l3yX$bi^ME{A9f*Cn6jc*3#Hf?Y3-"
    "BnH3*2FDpq1(zcoL!oBZmqA~xV?6*(QxA=N<3jsZRuQX#Ju12LM>;<RK%IKvLzv<FzU?%%qYK(^XeFJ(>Czikx>K3SQZ+t&Duf3R$33yHqo%9)"
    "_V3-ExsdUCmN5dJwv%ufZiFviv@sBZ6M?nx92O6zyk8T1?1xauANQ+uQCBVLjE22zX9*dpTT>(rEC&-A{z7y;N8Oj8-"
    "w>W1J4$`Ao{<dt7p*dmY~}Z(NJF4A_8{4ECos@prb{w!Zwxw(%I@eGXR<$#hhFp8)oPJj1jLH@mV82XT%X2JFnpwAXc*4CBPhntBr6SBV2FV0N"
    ")TU8{ujqTtkHG)d7&t?=g2}z@%#I@@p|n;L`mMc(QyvS=aT+Qj-{}zYp@`9cNT3;(q~Q5Vq3"
)
