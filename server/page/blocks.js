export class BlocksPanel { constructor(){ this.element=document.createElement("div"); } async ask(){} }
