"use strict";
/* A crystal in 3D. 3Dmol draws atoms and bonds; which there are is decided here: copies of the cell,
   atoms on its boundary, and the partners of bonds that cross a face. */

ClacMap.structure = (() => {
  const BOUNDARY = 0.08; // angstrom from a face within which an atom is repeated on the other side
  const MAX_ATOMS = 2500; // drawn
  const MAX_PAIRS = 700; // atoms of the cell above which no bonds are searched
  // Bonds: a distance below this share of the sum of covalent radii.
  const SHARE = { unlike: 1.2, metals: 1.1, others: 1.15 };
  const NON_METALS = new Set(("H He B C N O F Ne Si P S Cl Ar Ge As Se Br Kr Te I Xe At Rn").split(" "));

  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const norm = (a) => Math.sqrt(dot(a, a));

  function cartesian(f, lattice) {
    return [0, 1, 2].map((k) => f[0] * lattice[0][k] + f[1] * lattice[1][k] + f[2] * lattice[2][k]);
  }

  /* Distances between opposite faces. */
  function heights(lattice) {
    const volume = Math.abs(dot(lattice[0], cross(lattice[1], lattice[2])));
    return [0, 1, 2].map((k) => volume / norm(cross(lattice[(k + 1) % 3], lattice[(k + 2) % 3])));
  }

  /* The atoms of the cell with fractional coordinates in [0, 1). */
  function cellAtoms(crystal, symbols) {
    return Array.from(crystal.numbers, (z, i) => ({
      symbol: symbols[z], z,
      f: [0, 1, 2].map((k) => {
        const f = crystal.coords[3 * i + k] % 1;
        return f > 1 - 1e-4 ? 0 : Math.abs(f) < 1e-4 ? 0 : f;
      }),
    }));
  }

  /* For each atom of the cell, the bonded atoms: [index, shift in cells, length]. */
  function bonds(atoms, lattice, radii) {
    const result = atoms.map(() => []);
    if (atoms.length > MAX_PAIRS) return result;
    const isMetal = atoms.map((a) => !NON_METALS.has(a.symbol));
    const isMixed = isMetal.some(Boolean) && !isMetal.every(Boolean);
    const places = atoms.map((a) => cartesian(a.f, lattice));
    const longest = 2.4 * Math.max(...atoms.map((a) => radii[a.z]));
    const reach = heights(lattice).map((h) => Math.ceil(longest / h));
    const shifts = [];
    for (let a = -reach[0]; a <= reach[0]; a++)
      for (let b = -reach[1]; b <= reach[1]; b++)
        for (let c = -reach[2]; c <= reach[2]; c++) shifts.push([[a, b, c], cartesian([a, b, c], lattice)]);
    for (let i = 0; i < atoms.length; i++) {
      for (let j = 0; j < atoms.length; j++) {
        // Metal atoms next to each other in a salt or an oxide are not bonded.
        if (isMixed && isMetal[i] && isMetal[j]) continue;
        const share = isMetal[i] !== isMetal[j] ? SHARE.unlike : isMetal[i] ? SHARE.metals : SHARE.others;
        const limit = share * (radii[atoms[i].z] + radii[atoms[j].z]);
        for (const [shift, step] of shifts) {
          const away = norm([0, 1, 2].map((k) => places[j][k] + step[k] - places[i][k]));
          if (away > 0.1 && away < limit) result[i].push([j, shift, away]);
        }
      }
    }
    return result;
  }

  /* What is drawn: {atoms: [{symbol, x, y, z, kind, bonds}], cells, truncated}; `kind` is "cell",
     "boundary" (a copy on a face) or "outside" (the partner of a bond that crosses a face). */
  function expand(crystal, symbols, radii, { supercell = 1, boundary = true, across = true } = {}) {
    const { lattice } = crystal, base = cellAtoms(crystal, symbols);
    while (supercell > 1 && base.length * supercell ** 3 > MAX_ATOMS) supercell--;
    const partners = bonds(base, lattice, radii);
    const isMixed = base.some((a) => NON_METALS.has(a.symbol)) && base.some((a) => !NON_METALS.has(a.symbol));
    const drawn = new Map(), list = [];
    const add = (index, shift, kind) => {
      const key = `${index},${shift}`;
      if (drawn.has(key) || list.length >= MAX_ATOMS) return;
      const [x, y, z] = cartesian(base[index].f.map((f, k) => f + shift[k]), lattice);
      drawn.set(key, list.length);
      list.push({ index, shift, kind, symbol: base[index].symbol, x, y, z, bonds: [] });
    };
    for (let a = 0; a < supercell; a++) for (let b = 0; b < supercell; b++)
      for (let c = 0; c < supercell; c++) base.forEach((_, i) => add(i, [a, b, c], "cell"));
    if (boundary) {
      const h = heights(lattice);
      base.forEach((atom, i) => {
        // Along each axis: inside the supercell, and on its far (or near) face.
        const options = atom.f.map((f, k) => {
          const inside = Array.from({ length: supercell }, (_, s) => s);
          if (f * h[k] < BOUNDARY) inside.push(supercell);
          if ((1 - f) * h[k] < BOUNDARY) inside.unshift(-1);
          return inside;
        });
        for (const a of options[0]) for (const b of options[1]) for (const c of options[2])
          add(i, [a, b, c], "boundary");
      });
    }
    if (across) {
      for (const atom of list.slice()) {
        // Coordination is completed around metal atoms, as it is usually drawn.
        if (isMixed && NON_METALS.has(atom.symbol) || !isMixed && atom.kind !== "cell") continue;
        for (const [j, shift] of partners[atom.index]) {
          add(j, shift.map((s, k) => s + atom.shift[k]), "outside");
        }
      }
    }
    list.forEach((atom, i) => {
      for (const [j, shift] of partners[atom.index]) {
        const other = drawn.get(`${j},${shift.map((s, k) => s + atom.shift[k])}`);
        if (other === undefined || other === i) continue;
        if (atom.kind === "outside" && list[other].kind === "outside") continue;
        atom.bonds.push(other);
      }
    });
    return { atoms: list, supercell, truncated: list.length >= MAX_ATOMS };
  }

  /* A CIF in P1. */
  function cif(crystal, symbols, id, formula) {
    const [a, b, c] = crystal.lattice, length = [a, b, c].map(norm);
    const angle = (u, v) => Math.acos(dot(u, v) / norm(u) / norm(v)) * 180 / Math.PI;
    // A CIF has no left-handed cells; -a, -b, -c has the same lengths and angles.
    const hand = dot(a, cross(b, c)) < 0 ? -1 : 1;
    const counts = {};
    const sites = Array.from(crystal.numbers, (z, i) => {
      const symbol = symbols[z];
      counts[symbol] = (counts[symbol] || 0) + 1;
      const f = [0, 1, 2].map((k) => (hand * crystal.coords[3 * i + k]).toFixed(6));
      return `${symbol} ${symbol}${counts[symbol]} 1 ${f.join(" ")} 1`;
    });
    const sum = Object.keys(counts).sort().map((s) => s + counts[s]).join(" ");
    return [
      `data_${id.replace(/[^\w.-]/g, "_") || "crystal"}`,
      `_chemical_formula_structural ${formula}`,
      `_chemical_formula_sum '${sum}'`,
      ...["a", "b", "c"].map((name, k) => `_cell_length_${name} ${length[k].toFixed(6)}`),
      `_cell_angle_alpha ${angle(b, c).toFixed(5)}`,
      `_cell_angle_beta ${angle(a, c).toFixed(5)}`,
      `_cell_angle_gamma ${angle(a, b).toFixed(5)}`,
      "_symmetry_space_group_name_H-M 'P 1'",
      "_symmetry_Int_Tables_number 1",
      "loop_", "_symmetry_equiv_pos_site_id", "_symmetry_equiv_pos_as_xyz", "1 'x, y, z'",
      "loop_", "_atom_site_type_symbol", "_atom_site_label", "_atom_site_symmetry_multiplicity",
      "_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z", "_atom_site_occupancy",
      ...sites, "",
    ].join("\n");
  }

  function colourOf(symbol) {
    const value = $3Dmol.elementColors.Jmol[symbol];
    return `#${(value === undefined ? 0x888888 : value).toString(16).padStart(6, "0")}`;
  }

  /* A colour mixed with that of the background. */
  function paler(colour, dark) {
    const behind = dark ? [27, 32, 41] : [247, 248, 250];
    return "#" + ClacMap.colours.parse(colour)
      .map((c, k) => Math.round(0.55 * c + 0.45 * behind[k]).toString(16).padStart(2, "0")).join("");
  }

  /* Draws in a 3Dmol viewer. */
  function draw(viewer, crystal, expanded, radii, data, dark) {
    viewer.removeAllModels();
    viewer.removeAllShapes();
    viewer.removeAllLabels();
    const model = viewer.addModel();
    model.addAtoms(expanded.atoms.map((atom, i) => ({
      elem: atom.symbol, x: atom.x, y: atom.y, z: atom.z, serial: i,
      bonds: atom.bonds, bondOrder: atom.bonds.map(() => 1), properties: { kind: atom.kind },
    })));
    for (const symbol of new Set(expanded.atoms.map((a) => a.symbol))) {
      const radius = 0.2 + 0.22 * radii[data.symbols.indexOf(symbol)], color = colourOf(symbol);
      for (const [kinds, size, tint] of [[["cell", "boundary"], 1, color], [["outside"], 0.72, paler(color, dark)]]) {
        model.setStyle({ elem: symbol, predicate: (atom) => kinds.includes(atom.properties.kind) },
          { sphere: { radius: radius * size, color: tint }, stick: { radius: 0.09, color: tint } });
      }
    }
    drawCell(viewer, crystal.lattice, expanded.supercell, dark);
  }

  function drawCell(viewer, lattice, supercell, dark) {
    const corner = (f) => { const [x, y, z] = cartesian(f, lattice); return { x, y, z }; };
    const edge = dark ? "#8d96a8" : "#4b5363";
    for (let axis = 0; axis < 3; axis++) {
      for (let u = 0; u <= supercell; u++) for (let v = 0; v <= supercell; v++) {
        const start = [0, 0, 0], end = [0, 0, 0];
        start[(axis + 1) % 3] = end[(axis + 1) % 3] = u;
        start[(axis + 2) % 3] = end[(axis + 2) % 3] = v;
        end[axis] = supercell;
        viewer.addCylinder({ start: corner(start), end: corner(end), radius: 0.035, color: edge,
          fromCap: 1, toCap: 1 });
      }
      const tip = [0, 0, 0];
      tip[axis] = supercell + 1.5 / norm(lattice[axis]);
      viewer.addLabel("abc"[axis], { position: corner(tip), fontSize: 13, bold: true,
        fontColor: ["#d62728", "#2ca02c", "#1f77b4"][axis], showBackground: false,
        alignment: "center", inFront: true });
    }
  }

  return { expand, bonds, cellAtoms, cif, draw, colourOf };
})();
