// What the pack's modules use of ComfyUI's page, for the type checker; nothing of it is sent to a browser.

export interface Widget {
    name: string;
    value: unknown;
    type?: string;
    serialize?: boolean;
    hidden?: boolean;
    label?: string;
    options?: {
        values?: unknown[];
        getOptionLabel?: (value?: string | null) => string;
        [name: string]: unknown;
    };
    callback?: (value: unknown, ...rest: unknown[]) => unknown;
    onRemove?: () => void;
    serializeValue?: () => unknown;
    element?: HTMLElement;
}

/** A widget of lines (text_box.js). */
export interface TextWidget extends Widget {
    element: HTMLElement;
    lines?: string[];
    linesHeight?: number;
}

export interface Slot {
    name: string;
    type: string | number;
    link?: number | null;
    links?: number[] | null;
    widget?: { name: string };
}

export interface Link {
    id: number;
    origin_id: number | string;
    origin_slot: number;
    target_id: number | string;
    target_slot: number;
}

export interface GraphNode {
    id: number | string;
    type: string;
    title: string;
    comfyClass?: string;
    mode: number;
    size: [number, number];
    widgets?: Widget[];
    inputs?: Slot[];
    outputs?: Slot[];
    properties?: Record<string, unknown>;
    graph?: Graph | null;
    /** The graph inside of a node that stands for one. */
    subgraph?: Graph;
    isVirtualNode?: boolean;
    /** Of Nodes 2.0: without the page's own preview of the outputs. */
    hideOutputImages?: boolean;
    computeSize(): [number, number];
    setSize(size: [number, number]): void;
    setDirtyCanvas?(foreground: boolean, background: boolean): void;
    addDOMWidget?(name: string, type: string, element: HTMLElement, options: object): Widget;
    onExecuted?(this: GraphNode, output: Record<string, unknown> | undefined, ...rest: unknown[]): void;
    onConnectionsChange?(...args: unknown[]): void;
    onConfigure?(...args: unknown[]): void;
    onResize?(...args: unknown[]): void;
    onRemoved?(...args: unknown[]): void;
}

export interface Graph {
    /** Of the workflow. */
    id?: string;
    nodes: GraphNode[];
    groups?: { title: string }[];
    extra?: Record<string, unknown>;
    links: Map<number, Link> | Record<number, Link>;
    inputs?: Slot[];
    outputs?: Slot[];
    inputNode?: { id: number | string };
    outputNode?: { id: number | string };
    rootGraph?: Graph;
    getNodeById(id: number | string): GraphNode | null;
    getLink?(id: number): Link | undefined;
    setDirtyCanvas?(foreground: boolean, background: boolean): void;
}

/** A node as the server describes it. */
export interface NodeData {
    name: string;
    input?: { required?: Record<string, InputData>; optional?: Record<string, InputData> };
}

/** Type and options of an input; the presets are ours. */
export type InputData = [unknown, { presets?: Record<string, Record<string, unknown>>; [name: string]: unknown }?];

export interface Extension {
    name: string;
    init?(): unknown;
    setup?(): unknown;
    nodeCreated?(node: GraphNode): unknown;
    loadedGraphNode?(node: GraphNode): unknown;
    afterConfigureGraph?(): unknown;
    beforeRegisterNodeDef?(nodeType: { prototype: GraphNode }, nodeData: NodeData): unknown;
}

export interface App {
    graph: Graph;
    canvas?: unknown;
    rootGraph?: Graph;
    extensionManager?: { setting?: { get(name: string): unknown } };
    ui?: { settings?: EventTarget };
    registerExtension(extension: Extension): void;
}

/** What the server says of nodes that it does not run. */
export interface Refusals {
    node_errors?: Record<string, { class_type: string; errors?: { details?: string }[] }>;
}

export interface Api {
    /** Of this tab, as the server knows it. */
    clientId?: string;
    initialClientId?: string | null;
    fetchApi(route: string, options?: RequestInit): Promise<Response>;
    apiURL(route: string): string;
    addEventListener(kind: string, listener: (event: CustomEvent) => void, options?: AddEventListenerOptions): void;
    queuePrompt(...request: unknown[]): Promise<Refusals & Record<string, unknown>>;
}
